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

void quantize(const float* x, int64_t n, int64_t width, int8_t* q, float* scale, int32_t* sums) {
  for (int64_t s = 0; s < n / kStep; ++s, x += kStep, q += width * kStep, scale += width, sums += 2 * width) {
    const f32x16 a = load(x), b = load(x + 16);
    const float largest = largest_magnitude(a, b);
    // Blocks so small that the quotient could overflow count as zero.
    const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
    // A NaN or infinite activation must reach the logits, not vanish in a cast.
    *scale = largest < __builtin_inff() ? largest / 127.0f : __builtin_nanf("");
    store_i8(q, round(mul(a, set(inverse))));
    store_i8(q + 16, round(mul(b, set(inverse))));
    sums[0] = sum_i8(q);
    sums[width] = sum_i8(q + 16);
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

void rope_halves(float* head, const float* table, int64_t n) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const f32x16 a = get(head + i, lanes), b = get(head + n + i, lanes);
    const f32x16 cosine = get(table + i, lanes), sine = get(table + n + i, lanes);
    put(head + i, fnma(b, sine, mul(a, cosine)), lanes);
    put(head + n + i, fma(b, cosine, mul(a, sine)), lanes);
  });
}

void rope_adjacent(float* head, const float* table, int64_t n) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const f32x16 x = get(head + i, lanes);
    put(head + i, fma(swap_pairs(x), get(table + n + i, lanes), mul(x, get(table + i, lanes))), lanes);
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
  // Sums enough to hide the latency of the products, few enough to stay in registers beside the codes.
  constexpr int kColumns = kSumsInFlight / kTilePanels;
  alignas(64) uint8_t weights[64 * kTilePanels];
  alignas(64) int8_t x[kColumns * kStep];
  for (int i = 0; i < 64 * kTilePanels; ++i) weights[i] = static_cast<uint8_t>(i % 13);
  for (int i = 0; i < kColumns * kStep; ++i) x[i] = static_cast<int8_t>(i % 7);
  u8x64 code[kTilePanels][8];
  for (int p = 0; p < kTilePanels; ++p)
    for (int q = 0; q < 8; ++q) code[p][q] = load_bytes(weights + 64 * p);
  i32x16 sums[kColumns][kTilePanels];
  PYLLM_UNROLL
  for (int c = 0; c < kColumns; ++c)
    for (int p = 0; p < kTilePanels; ++p) sums[c][p] = set_int(0);
  for (int64_t s = 0; s < steps * 12 / kSumsInFlight; ++s) {
    asm volatile("" : "+m"(x));  // may have changed: nothing moves out of the loop
    PYLLM_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      i32x16 d[kTilePanels];
      for (int p = 0; p < kTilePanels; ++p) d[p] = sums[c][p];
      dot<8, 4, 0>(d, code, x + c * kStep);
      for (int p = 0; p < kTilePanels; ++p) sums[c][p] = d[p];
    }
  }
  f32x16 total = zero();
  PYLLM_UNROLL
  for (int c = 0; c < kColumns; ++c)
    for (int p = 0; p < kTilePanels; ++p) total = add(total, to_float(sums[c][p]));
  return max_lane(total) < 0.0f ? -1 : steps * 12 * kStep * kPanelRows * 2;
}

}  // namespace pyllm::cpu::PYLLM_ISA
