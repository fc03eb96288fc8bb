// Row-wise operations between the matmuls: quantization, norms, gates.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace pyllm::cpu::PYLLM_ISA {

// Calls f(offset, lanes) over n in runs of 16.
template <typename F>
inline void for_lanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f(i, 16);
  if (i < n) f(i, static_cast<int>(n - i));
}
inline f32x16 get(const float* p, int lanes) { return lanes == 16 ? load(p) : load_partial(p, lanes); }
inline void put(float* p, f32x16 v, int lanes) { lanes == 16 ? store(p, v) : store_partial(p, v, lanes); }

void quantize(const float* x, int64_t n, int8_t* q, int64_t q_stride, float* scale, int64_t scale_stride,
              int32_t* sums) {
  for (int64_t s = 0; s < n / kStep;
       ++s, x += kStep, q += q_stride, scale += scale_stride, sums += 2 * scale_stride) {
    const f32x16 a = load(x), b = load(x + 16);
    const float largest = max_lane(max(abs(a), abs(b)));
    // 0 for finite input, NaN otherwise: a NaN or infinite activation must reach the logits, not vanish in a
    // cast.
    const float poison = sum(fma(a, zero(), mul(b, zero())));
    // Blocks so small that the quotient could overflow count as zero.
    const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
    *scale = largest / 127.0f + poison;
    const f32x16 whole[2] = {round(mul(a, set(inverse))), round(mul(b, set(inverse)))};
    for (int h = 0; h < 2; ++h) {
      store_i8(q + 16 * h, whole[h]);
      const float total = sum(whole[h]);  // exact: at most 16 x 127
      sums[h] = total == total ? static_cast<int32_t>(total) : 0;
    }
  }
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  f32x16 squares = zero();
  for_lanes(n, [&](int64_t i, int lanes) {
    const f32x16 v = get(x + i, lanes);
    squares = fma(v, v, squares);
  });
  const f32x16 factor = set(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps));
  for_lanes(n, [&](int64_t i, int lanes) {
    put(out + i, mul(mul(get(x + i, lanes), factor), get(weight + i, lanes)), lanes);
  });
}

void add_to(float* x, const float* y, int64_t n) {
  for_lanes(n, [&](int64_t i, int lanes) { put(x + i, add(get(x + i, lanes), get(y + i, lanes)), lanes); });
}

void scale_by(float* x, float factor, int64_t n) {
  for_lanes(n, [&](int64_t i, int lanes) { put(x + i, mul(get(x + i, lanes), set(factor)), lanes); });
}

// x * sigmoid(x) * up
void silu_gate(const float* gate, const float* up, int64_t n, float* out) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const f32x16 g = get(gate + i, lanes);
    const f32x16 sigmoid = div(set(1.0f), add(set(1.0f), exp(sub(zero(), g))));
    put(out + i, mul(mul(g, sigmoid), get(up + i, lanes)), lanes);
  });
}

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) * up, with (1 + tanh(z)) / 2 = sigmoid(2 z)
void gelu_gate(const float* gate, const float* up, int64_t n, float* out) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const f32x16 g = get(gate + i, lanes);
    const f32x16 cubic = fma(mul(mul(g, g), g), set(0.044715f), g);
    const f32x16 sigmoid = div(set(1.0f), add(set(1.0f), exp(mul(cubic, set(-1.59576912f)))));
    put(out + i, mul(mul(g, sigmoid), get(up + i, lanes)), lanes);
  });
}

void to_half(const float* x, int64_t n, uint16_t* out) {
  for_lanes(n, [&](int64_t i, int lanes) {
    if (lanes == 16) return store_half(out + i, load(x + i));
    uint16_t padded[16];
    store_half(padded, load_partial(x + i, lanes));
    for (int k = 0; k < lanes; ++k) out[i + k] = padded[k];
  });
}

int64_t int8_ops(int64_t steps) {
  constexpr int kSums = 12;  // independent ones: enough to hide the latency, few enough for the registers
  alignas(64) uint8_t weights[512];
  alignas(64) int8_t x[kSums * kStep];
  for (int i = 0; i < 512; ++i) weights[i] = static_cast<uint8_t>(i & 15);
  for (int i = 0; i < kSums * kStep; ++i) x[i] = static_cast<int8_t>(i % 7);
  u8x64 code[8];
  for (int q = 0; q < 8; ++q) code[q] = load_bytes(weights + 64 * q);
  const int32_t init = 0;
  i32x16 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = dot<8, 4, 0>(code, x, &init);
  for (int64_t s = 1; s < steps; ++s) {
    asm volatile("" ::: "memory");  // the activations may have changed: nothing moves out of the loop
    for (int q = 0; q < 8; ++q) {
      PYLLM_UNROLL
      for (int i = 0; i < kSums; ++i) accumulate(sums[i], code[q], x + i * kStep + 4 * q);
    }
  }
  f32x16 total = zero();
  for (int i = 0; i < kSums; ++i) total = add(total, to_float(sums[i]));
  return max_lane(total) < 0 ? -1 : steps * kSums * kStep * kPanelRows * 2;
}

}  // namespace pyllm::cpu::PYLLM_ISA
