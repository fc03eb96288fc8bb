// A row of floats to blocks of a type. See quantize.h for who calls this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/type.h"

// The types that can be written.
#define PYLLM_WRITTEN_TYPES(X) \
  X(Q4_0)                      \
  X(Q4_1)                      \
  X(Q5_0)                      \
  X(Q5_1)                      \
  X(Q8_0)                      \
  X(Q2_K)                      \
  X(Q3_K)                      \
  X(Q4_K)                      \
  X(Q5_K)                      \
  X(Q6_K)                      \
  X(IQ4_NL)                    \
  X(IQ4_XS)                    \
  X(IQ3_S)                     \
  X(IQ3_XXS)                   \
  X(IQ2_S)                     \
  X(IQ2_XS)                    \
  X(IQ2_XXS)                   \
  X(IQ1_S)                     \
  X(IQ1_M)                     \
  X(TQ1_0)                     \
  X(TQ2_0)                     \
  X(MXFP4)

namespace pyllm::quantize {

// x, importance: [n], n a multiple of the type's block. out: the blocks' bytes.
using QuantizeRow = void (*)(const float* x, const float* importance, int64_t n, std::byte* out);

// nullptr for a type that cannot be written.
namespace scalar {
QuantizeRow quantizer(Type type);
}
#if defined(__x86_64__)
namespace avx2 {
QuantizeRow quantizer(Type type);
}
#endif

}  // namespace pyllm::quantize
