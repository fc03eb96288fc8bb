// The layouts that products are compiled for, by number: types that share one share its kernels.
#pragma once

#include <type_traits>

#include "backend/cuda/layout.h"
#include "quant/types.h"

namespace pyllm::cuda {

// One representative type each; nvcc compiles the two halves side by side.
#define PYLLM_CUDA_LAYOUTS_A(X) \
  X(0, Q4_0)                    \
  X(1, Q4_1)                    \
  X(2, Q5_0)                    \
  X(3, Q5_1)                    \
  X(4, Q8_0)                    \
  X(5, IQ4_NL)                  \
  X(6, MXFP4)                   \
  X(7, IQ3_S)                   \
  X(8, IQ2_S)
#define PYLLM_CUDA_LAYOUTS_B(X) \
  X(9, Q2_K)                    \
  X(10, Q3_K)                   \
  X(11, Q4_K)                   \
  X(12, Q5_K)                   \
  X(13, Q6_K)                   \
  X(14, IQ4_XS)                 \
  X(15, TQ2_0)

template <typename Q>
constexpr int layout_number() {
#define PYLLM_X(number, type) \
  if (std::is_same_v<LayoutOf<Q>, LayoutOf<quant::type>>) return number;
  PYLLM_CUDA_LAYOUTS_A(PYLLM_X)
  PYLLM_CUDA_LAYOUTS_B(PYLLM_X)
#undef PYLLM_X
  return -1;
}
#define PYLLM_X(Q) static_assert(layout_number<quant::Q>() >= 0, #Q " needs a line among the layouts");
PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X

}  // namespace pyllm::cuda
