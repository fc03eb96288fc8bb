// Quantized products: the kernels of one half of the layouts.
#include "backend/cuda/layouts.h"
#include "backend/cuda/matmul_kernel.h"

namespace pyllm::cuda {

bool matmul_b(Stream& stream, int layout, const MatmulArgs& args) {
  switch (layout) {
#define PYLLM_X(number, type)                         \
  case number:                                        \
    matmul_with<LayoutOf<quant::type>>(stream, args); \
    return true;
    PYLLM_CUDA_LAYOUTS_B(PYLLM_X)
#undef PYLLM_X
    default:
      return false;
  }
}

}  // namespace pyllm::cuda
