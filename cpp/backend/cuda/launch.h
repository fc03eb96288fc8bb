// Errors, launches and the stream they go to.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "core/error.h"

namespace pyllm::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail("CUDA: ", what, ": ", cudaGetErrorString(error));
}

// Kernels and copies, in order, on one device. Every kernel takes one struct, so that a launch is plain data.
class Stream {
 public:
  explicit Stream(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t get() const { return stream_; }

  template <typename Args>
  void launch(void (*kernel)(Args), dim3 grid, dim3 block, size_t shared, const Args& args) {
#ifdef PYLLM_EMULATED
    const std::pair<void (*)(Args), Args> call(kernel, args);
    emulator::run(
        grid, block, shared,
        [](const void* p) {
          const auto& c = *static_cast<const std::pair<void (*)(Args), Args>*>(p);
          c.first(c.second);
        },
        &call);
#else
    constexpr size_t kUsual = 48 << 10;  // above it a kernel must be told
    if (shared > kUsual)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
            "shared memory");
    void* pointers[] = {const_cast<Args*>(&args)};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared, stream_),
          "launch");
#endif
  }

 private:
  cudaStream_t stream_;
};

}  // namespace pyllm::cuda
