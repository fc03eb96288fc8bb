// Products with float weights: a warp takes a row and up to four activation columns; lanes take runs of 8
// columns of the weights in turn, and their sums are added pairwise. The order depends on the weights' shape
// alone.
#include "backend/cuda/kernels.h"
#include "backend/cuda/reduce.h"
#include "core/half.h"

namespace pyllm::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kColumns = 4, kRun = 8;

struct AsFloat {
  using Element = float;
  static __device__ __forceinline__ float get(float x) { return x; }
};
struct AsHalf {
  using Element = uint16_t;
  static __device__ __forceinline__ float get(uint16_t x) { return half_to_float(x); }
};
struct AsBfloat {
  using Element = uint16_t;
  static __device__ __forceinline__ float get(uint16_t x) { return to_float(bfloat16{x}); }
};

// kRun weights in one or two wide loads.
template <typename As>
__device__ __forceinline__ void load_run(const typename As::Element* p, float (&w)[kRun]) {
  constexpr int kPerLoad = 16 / static_cast<int>(sizeof(typename As::Element));
#pragma unroll
  for (int i = 0; i < kRun / kPerLoad; ++i) {
    const uint4 v = load_once(reinterpret_cast<const uint4*>(p) + i);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < kPerLoad; ++k)
      if constexpr (kPerLoad == 4)
        w[4 * i + k] = __int_as_float(static_cast<int>(words[k]));
      else
        w[k] = As::get(static_cast<uint16_t>(words[k / 2] >> 16 * (k % 2)));
  }
}

template <typename As>
__global__ void __launch_bounds__(kThreads) kernel(const FloatMatmulArgs a) {
  after_previous();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_blocks = (a.rows + kWarps - 1) / kWarps;
  const int row = static_cast<int>(blockIdx.x) % row_blocks * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) / row_blocks * kColumns;
  if (row >= a.rows) return;  // a whole warp
  const auto* weights =
      static_cast<const typename As::Element*>(a.weights) + static_cast<int64_t>(row) * a.cols;
  const int columns = min(kColumns, a.columns - first);
  float acc[kColumns] = {};
  const bool wide = a.cols % kRun == 0;
  for (int k = lane * kRun; k < a.cols; k += 32 * kRun) {
    float w[kRun];
    if (wide)
      load_run<As>(weights + k, w);
    else
      for (int i = 0; i < kRun; ++i) w[i] = k + i < a.cols ? As::get(weights[k + i]) : 0.0f;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= columns) break;
      const float* x = a.x + static_cast<int64_t>(first + c) * a.cols + k;
      if (wide) {
#pragma unroll
        for (int i = 0; i < kRun; i += 4) {
          const float4 v = *reinterpret_cast<const float4*>(x + i);
          acc[c] = fmaf(w[i], v.x, acc[c]);
          acc[c] = fmaf(w[i + 1], v.y, acc[c]);
          acc[c] = fmaf(w[i + 2], v.z, acc[c]);
          acc[c] = fmaf(w[i + 3], v.w, acc[c]);
        }
      } else {
        for (int i = 0; i < kRun; ++i)
          if (k + i < a.cols) acc[c] = fmaf(w[i], x[i], acc[c]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const float sum = warp_sum(acc[c]);
    if (c >= columns || lane != c) continue;
    float* to = a.out + (first + c) * a.stride + row;
    const float total = a.add ? *to + sum : sum;
    *to = a.bias != nullptr ? total + a.bias[row] : total;
  }
}

}  // namespace

void matmul_float(Stream& stream, const FloatMatmulArgs& args) {
  const int64_t blocks =
      static_cast<int64_t>((args.rows + kWarps - 1) / kWarps) * ((args.columns + kColumns - 1) / kColumns);
  const auto go = [&](void (*k)(FloatMatmulArgs)) {
    stream.launch(k, static_cast<unsigned>(blocks), kThreads, 0, args);
  };
  if (args.type == Type::F32) go(&kernel<AsFloat>);
  if (args.type == Type::F16) go(&kernel<AsHalf>);
  if (args.type == Type::BF16) go(&kernel<AsBfloat>);
}

}  // namespace pyllm::cuda
