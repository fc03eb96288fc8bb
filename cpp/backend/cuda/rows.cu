// Row-wise operations between the products: norms, gates and quantization, rotary positions, copies of rows.
#include <algorithm>

#include "backend/cuda/kernels.h"
#include "backend/cuda/layout.h"
#include "backend/cuda/reduce.h"

namespace pyllm::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStepsPerBlock = 8 * kWarps;  // of one row
constexpr int kGridRows = 32768;            // rows in a grid's y; further ones come in the next turn

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Quantizes what lane `lane` holds of step s of a column; returns what that leaves over.
__device__ float quantize_step(const QuantizeArgs& a, float x, int lane, int s, int column) {
  const float magnitude = fabsf(x);
  const float largest = warp_max(magnitude < INFINITY ? magnitude : INFINITY);  // NaN counts as infinite
  // Blocks so small that the quotient could overflow count as zero.
  const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
  // A NaN or infinite activation must reach the logits, not vanish in a cast.
  const float scale = largest < INFINITY ? largest / 127.0f : NAN;
  const float rounded = rintf(x * inverse);
  const int code = rounded >= -127.0f && rounded <= 127.0f ? static_cast<int>(rounded) : 0;
  const int half_sum = warp_sum(code, 16);
  const int sum = half_sum + __shfl_xor_sync(0xffffffffu, half_sum, 16);
  const int64_t word =
      ((static_cast<int64_t>(s / 2) * a.columns + column) * 4 + lane % 16 / 4) * 4 + s % 2 * 2 + lane / 16;
  reinterpret_cast<int8_t*>(a.q + word)[lane % 4] = static_cast<int8_t>(code);
  if (lane == 0)
    a.meta[static_cast<int64_t>(s) * a.columns + column] =
        make_uint2(float_to_bits(scale), static_cast<uint32_t>(sum) << 16 | static_cast<uint16_t>(half_sum));
  return x - scale * static_cast<float>(code);
}

// Blocks of a row each compute its norm, and quantize their share of its steps, a warp a step.
__global__ void __launch_bounds__(kThreads) quantize_kernel(const QuantizeArgs a) {
  after_previous();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int row = static_cast<int>(blockIdx.y); row < a.rows; row += static_cast<int>(gridDim.y)) {
    const float* x = a.x + row * a.stride;
    float factor = 1.0f;
    if (a.op == static_cast<int>(Input::Op::RmsNorm)) {
      float squares = 0.0f;
      for (int i = static_cast<int>(threadIdx.x); i < a.cols; i += kThreads)
        squares = fmaf(x[i], x[i], squares);
      const float sum = block_sum(squares, shared_memory<float>());
      factor = 1.0f / sqrtf(sum / static_cast<float>(a.cols) + a.eps);
    }
    const int first = static_cast<int>(blockIdx.x) * kStepsPerBlock;
    for (int s = first + warp; s < min(first + kStepsPerBlock, a.steps); s += kWarps) {
      const int i = s * kStep + lane;
      float value = 0.0f;
      if (i < a.cols) {
        value = x[i];
        if (a.op == static_cast<int>(Input::Op::RmsNorm)) {
          value = value * factor * a.weight[i];
        } else if (a.op == static_cast<int>(Input::Op::SiluGate)) {
          value = value * sigmoid(value) * x[a.cols + i];
        } else if (a.op == static_cast<int>(Input::Op::GeluGate)) {
          // (1 + tanh(z)) / 2 = sigmoid(2 z)
          const float cubic = fmaf(value * value * value, 0.044715f, value);
          value = value * (1.0f / (1.0f + expf(cubic * -1.59576912f))) * x[a.cols + i];
        }
        if (a.plain != nullptr) a.plain[static_cast<int64_t>(row) * a.cols + i] = value;
      }
      if (a.q == nullptr) continue;
      const float rest = quantize_step(a, value, lane, s, row);
      if (a.rest_column > 0) quantize_step(a, rest, lane, s, a.rest_column + row);
    }
  }
}

__global__ void __launch_bounds__(kThreads) join_kernel(const JoinArgs a) {
  after_previous();
  const int64_t count = static_cast<int64_t>(a.rows) * a.cols;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = i / a.cols, column = i % a.cols;
    float* to = a.out + row * a.stride + column;
    const float product = a.whole[row * a.from_stride + column] + a.rest[row * a.from_stride + column];
    const float sum = a.add ? *to + product : product;
    *to = a.bias != nullptr ? sum + a.bias[column] : sum;
  }
}

__global__ void __launch_bounds__(kThreads) norm_kernel(const NormArgs a) {
  after_previous();
  const int groups = a.cols / a.group;
  const int64_t row = blockIdx.x / groups, first = blockIdx.x % groups * static_cast<int64_t>(a.group);
  const float* x = a.x + row * a.stride + first;
  float* out = a.out + row * a.out_stride + first;
  float squares = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < a.group; i += static_cast<int>(blockDim.x))
    squares = fmaf(x[i], x[i], squares);
  const float sum = block_sum(squares, shared_memory<float>());
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(a.group) + a.eps);
  for (int i = static_cast<int>(threadIdx.x); i < a.group; i += static_cast<int>(blockDim.x)) {
    const float normed = x[i] * factor * a.weight[i];
    out[i] = a.add ? out[i] + normed : normed;
  }
}

__global__ void __launch_bounds__(kThreads) rope_table_kernel(const RopeTableArgs a) {
  after_previous();
  const int64_t count = static_cast<int64_t>(a.rows) * a.n;
  for (int64_t k = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; k < count;
       k += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = k / a.n, i = k % a.n;
    const double angle = static_cast<double>(static_cast<float>(a.positions[row]) * a.frequency[i]);
    const float cosine = static_cast<float>(cos(angle)) * a.magnitude;
    const float sine = static_cast<float>(sin(angle)) * a.magnitude;
    float* to = a.out + row * a.stride;
    if (a.halves) {
      to[i] = cosine;
      to[a.n + i] = sine;
    } else {
      to[2 * i] = to[2 * i + 1] = cosine;
      to[2 * (a.n + i)] = -sine;
      to[2 * (a.n + i) + 1] = sine;
    }
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const GatherArgs a) {
  after_previous();
  const int64_t count = static_cast<int64_t>(a.count) * a.cols;
  for (int64_t k = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; k < count;
       k += static_cast<int64_t>(gridDim.x) * kThreads)
    a.out[k / a.cols * a.out_stride + k % a.cols] = a.x[a.rows[k / a.cols] * a.stride + k % a.cols];
}

unsigned blocks_for(int64_t elements) {
  return static_cast<unsigned>(std::clamp<int64_t>((elements + kThreads - 1) / kThreads, 1, 4096));
}

}  // namespace

cudaError_t kernels_run_here() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, &quantize_kernel);
}

void quantize(Stream& stream, const QuantizeArgs& args) {
  const int blocks = (args.steps + kStepsPerBlock - 1) / kStepsPerBlock;
  stream.launch(&quantize_kernel,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(args.rows, kGridRows))),
                kThreads, sizeof(float) * kWarps, args);
}

void join(Stream& stream, const JoinArgs& args) {
  stream.launch(&join_kernel, blocks_for(static_cast<int64_t>(args.rows) * args.cols), kThreads, 0, args);
}

void rms_norm(Stream& stream, const NormArgs& args) {
  const int threads = args.group <= 128 ? 32 : kThreads;
  stream.launch(&norm_kernel, static_cast<unsigned>(static_cast<int64_t>(args.rows) * (args.cols / args.group)),
                static_cast<unsigned>(threads), sizeof(float) * kWarps, args);
}

void rope_table(Stream& stream, const RopeTableArgs& args) {
  stream.launch(&rope_table_kernel, blocks_for(static_cast<int64_t>(args.rows) * args.n), kThreads, 0, args);
}

void gather(Stream& stream, const GatherArgs& args) {
  stream.launch(&gather_kernel, blocks_for(static_cast<int64_t>(args.count) * args.cols), kThreads, 0, args);
}

}  // namespace pyllm::cuda
