// Attention of a tile of query vectors over one chunk of the paged KV cache. Keys lie transposed in their block
// ([head_dim][16 tokens]), so a lane is a token and no score needs a sum across lanes.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

constexpr int kBlock = 16;  // tokens in a block: one lane each

inline f32x16 soft_cap(f32x16 x, float cap) {  // cap * tanh(x / cap), tanh(z) = 2 sigmoid(2 z) - 1
  const f32x16 e = exp(mul(x, set(-2.0f / cap)));
  return mul(set(cap), sub(div(set(2.0f), add(set(1.0f), e)), set(1.0f)));
}

inline int clamp(int lane) { return lane < 0 ? 0 : (lane > kBlock ? kBlock : lane); }

template <int N>
void attend_tile(const AttentionChunk& a) {
  alignas(64) float scores[N][kChunk];
  const f32x16 minus_infinity = set(-__builtin_inff());
  int first = kChunk, last = 0;
  for (int i = 0; i < N; ++i) {
    if (a.first[i] >= a.last[i]) continue;
    first = a.first[i] < first ? a.first[i] : first;
    last = a.last[i] > last ? a.last[i] : last;
  }
  const int first_block = first / kBlock, end_block = (last + kBlock - 1) / kBlock;

  f32x16 max_score[N];
  for (int i = 0; i < N; ++i) max_score[i] = minus_infinity;
  for (int b = first_block; b < end_block; ++b) {
    const uint16_t* keys = a.keys[b];
    f32x16 s[N];
    for (int i = 0; i < N; ++i) s[i] = zero();
    for (int d = 0; d < a.head_dim; ++d) {
      const f32x16 k = load_half(keys + d * kBlock);
      PYLLM_UNROLL
      for (int i = 0; i < N; ++i) s[i] = fma(k, set(a.q[d * N + i]), s[i]);
    }
    for (int i = 0; i < N; ++i) {
      const int from = clamp(a.first[i] - b * kBlock), to = clamp(a.last[i] - b * kBlock);
      if (a.softcap > 0.0f) s[i] = soft_cap(s[i], a.softcap);
      s[i] = from < to ? select(from, to, s[i], minus_infinity) : minus_infinity;
      max_score[i] = max(s[i], max_score[i]);
      store(scores[i] + b * kBlock, s[i]);
    }
  }

  for (int i = 0; i < N; ++i) {
    a.max[i] = max_lane(max_score[i]);
    f32x16 total = zero();
    // Blocks that only other queries of the tile see get weight exactly 0, which leaves this one's sums as they
    // are.
    for (int b = first_block; b < end_block; ++b) {
      const int from = clamp(a.first[i] - b * kBlock), to = clamp(a.last[i] - b * kBlock);
      f32x16 p = zero();
      if (from < to) {
        p = select(from, to, exp(sub(load(scores[i] + b * kBlock), set(a.max[i]))), zero());
        total = add(total, p);
      }
      store(scores[i] + b * kBlock, p);
    }
    a.sum[i] = sum(total);
  }

  for (int i = 0; i < N; ++i)
    for (int d = 0; d < a.padded_dim; d += 16) store(a.out + i * a.padded_dim + d, zero());
  for (int b = first_block; b < end_block; ++b) {
    const uint16_t* values = a.keys[b] + a.value_offset;
    // Tokens that no query of the tile sees may be garbage: they are skipped, not weighted by 0.
    const int from = first > b * kBlock ? first - b * kBlock : 0;
    const int to = last < (b + 1) * kBlock ? last - b * kBlock : kBlock;
    for (int d = 0; d < a.padded_dim; d += 16) {
      f32x16 acc[N];
      for (int i = 0; i < N; ++i) acc[i] = load(a.out + i * a.padded_dim + d);
      for (int t = from; t < to; ++t) {
        const f32x16 v = load_half(values + t * a.padded_dim + d);
        PYLLM_UNROLL
        for (int i = 0; i < N; ++i) acc[i] = fma(v, set(scores[i][b * kBlock + t]), acc[i]);
      }
      for (int i = 0; i < N; ++i) store(a.out + i * a.padded_dim + d, acc[i]);
    }
  }
}

}  // namespace

void attend(const AttentionChunk& chunk) {
  switch (chunk.queries) {
    case 1:
      return attend_tile<1>(chunk);
    case 2:
      return attend_tile<2>(chunk);
    case 4:
      return attend_tile<4>(chunk);
    default:
      return attend_tile<8>(chunk);
  }
}

void merge(float* max_, float* sum_, float* out, float chunk_max, float chunk_sum, const float* chunk_out,
           int n) {
  if (chunk_max == -__builtin_inff()) return;  // saw nothing
  if (*max_ == -__builtin_inff()) {            // first chunk
    *max_ = chunk_max;
    *sum_ = chunk_sum;
    for (int d = 0; d < n; d += 16) store(out + d, load(chunk_out + d));
    return;
  }
  const float both[2] = {*max_, chunk_max};
  const float largest = both[0] > both[1] ? both[0] : both[1];
  alignas(64) float factor[16];
  store(factor, exp(sub(load_partial(both, 2), set(largest))));
  const f32x16 keep = set(factor[0]), take = set(factor[1]);
  *max_ = largest;
  *sum_ = __builtin_fmaf(*sum_, factor[0], chunk_sum * factor[1]);
  for (int d = 0; d < n; d += 16) store(out + d, fma(load(out + d), keep, mul(load(chunk_out + d), take)));
}

}  // namespace pyllm::cpu::PYLLM_ISA
