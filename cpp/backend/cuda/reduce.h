// Sums and maxima over a warp or a block, always in the same order.
#pragma once

#include "backend/cuda/intrinsics.h"

namespace pyllm::cuda {

template <typename T>
__device__ __forceinline__ T warp_sum(T x, int width = 32) {
  for (int mask = width / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, mask);
    x = other > x ? other : x;
  }
  return x;
}

// Over all threads of a block (whole warps, all of them here); `room` is shared memory for a float a warp.
__device__ __forceinline__ float block_sum(float x, float* room) {
  x = warp_sum(x);
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) room[warp] = x;
  __syncthreads();
  float sum = room[0];
  for (int i = 1; i < warps; ++i) sum += room[i];
  __syncthreads();
  return sum;
}

}  // namespace pyllm::cuda
