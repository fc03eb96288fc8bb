// Attention of a tile of query vectors over one chunk of the paged KV cache. Keys lie transposed in their block
// ([head_dim][16 tokens]), so a lane is a token and no score needs a sum across lanes; of values a lane is a
// feature. Every sum has one order, whatever the tile: that of the features, or of the positions.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

constexpr int kBlock = 16;                // tokens in a block: one lane each
constexpr int kPanelTokens = 4 * kBlock;  // converted at a time where several register tiles read them

// What fits the registers: kQueries x kVectors accumulators, kVectors keys or values, a broadcast.
#if defined(PYLLM_ISA_AVX512)
constexpr int kQueries = 6, kVectors = 4;
#elif defined(PYLLM_ISA_AVX2)
constexpr int kQueries = 3, kVectors = 2;
#else
constexpr int kQueries = 6, kVectors = 1;
#endif
static_assert(kQueryGroup % kQueries == 0);

inline int clamp(int lane) { return lane < 0 ? 0 : (lane > kBlock ? kBlock : lane); }
inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

inline f32x16 soft_cap(f32x16 x, float cap) {  // cap * tanh(x / cap), tanh(z) = 2 sigmoid(2 z) - 1
  const f32x16 e = exp(mul(x, set(-2.0f / cap)));
  return mul(set(cap), sub(div(set(2.0f), add(set(1.0f), e)), set(1.0f)));
}

// 2^x for x <= 0, to about 1 ulp; below 2^-125 not much smaller than that. NaN stays NaN.
inline f32x16 exp2(f32x16 x) {
  const f32x16 n = round(x), r = sub(x, n);
  f32x16 p = set(1.3264727313e-03f);  // minimax on |r| <= 1/2
  p = fma(p, r, set(9.6715129912e-03f));
  p = fma(p, r, set(5.5507335812e-02f));
  p = fma(p, r, set(2.4022242427e-01f));
  p = fma(p, r, set(6.9314700365e-01f));
  p = fma(p, r, set(1.0f));
  return mul(p, pow2(max(n, set(-125.0f))));
}

// Keys and values as vectors: straight from the cache, or from a panel of floats.
struct HalfKeys {
  const uint8_t* const* blocks;
  f32x16 operator()(int block, int d) const {
    return load_half(reinterpret_cast<const uint16_t*>(blocks[block]) + d * kBlock);
  }
};
struct PanelKeys {
  const float* panel;  // [head_dim][kPanelTokens]
  int first_block;
  f32x16 operator()(int block, int d) const {
    return load(panel + d * kPanelTokens + (block - first_block) * kBlock);
  }
};
struct HalfValues {
  const uint8_t* const* blocks;
  int64_t offset;  // bytes from a block's start to its values
  int padded_dim, column;
  f32x16 operator()(int token, int v) const {
    const auto* values = reinterpret_cast<const uint16_t*>(blocks[token / kBlock] + offset);
    return load_half(values + token % kBlock * padded_dim + column + 16 * v);
  }
};
struct PanelValues {
  const float* panel;  // [kPanelTokens][64 features]
  int first_token;
  f32x16 operator()(int token, int v) const { return load(panel + (token - first_token) * 64 + 16 * v); }
};

inline const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }
inline const int8_t* signed_bytes(const uint8_t* p) { return reinterpret_cast<const int8_t*>(p); }

// One block's keys as floats: panel [head_dim][kPanelTokens], of which this is 16 columns.
void expand_keys(const KvLayout& l, const uint8_t* block, float* panel) {
  const int dim = l.head_dim;
  if (l.type.keys == KvElement::Half) {
    for (int d = 0; d < dim; ++d, panel += kPanelTokens) store(panel, load_half(halves(block) + d * kBlock));
    return;
  }
  for (int group = 0; group < dim; group += 32) {
    const f32x16 scale = load_half(halves(block + l.key_scales) + group / 32 * kBlock);
    const int end = smaller(group + 32, dim);
    if (l.type.keys == KvElement::Bits8)
      for (int d = group; d < end; ++d, panel += kPanelTokens)
        store(panel, mul(load_i8(signed_bytes(block) + d * kBlock), scale));
    else if (l.type.keys == KvElement::Bits6)
      for (int d = group; d < end; d += 4) {
        const uint8_t *pair = block + d / 2 * kBlock, *high = block + l.key_high + d / 4 * kBlock;
        const auto put = [&](f32x16 low, f32x16 top) {
          store(panel, mul(sub(fma(top, set(16.0f), low), set(32.0f)), scale));
          panel += kPanelTokens;
        };
        put(load_bits<0, 15>(pair), load_bits<0, 3>(high));
        if (d + 1 < end) put(load_bits<4, 15>(pair), load_bits<2, 3>(high));
        if (d + 2 < end) put(load_bits<0, 15>(pair + kBlock), load_bits<4, 3>(high));
        if (d + 3 < end) put(load_bits<4, 15>(pair + kBlock), load_bits<6, 3>(high));
      }
    else
      for (int d = group; d < end; d += 2, panel += 2 * kPanelTokens) {
        const uint8_t* pair = block + d / 2 * kBlock;
        store(panel, mul(sub(load_bits<0, 15>(pair), set(8.0f)), scale));
        if (d + 1 < end) store(panel + kPanelTokens, mul(sub(load_bits<4, 15>(pair), set(8.0f)), scale));
      }
  }
}

// The values of tokens [from, to) of one block as floats: panel [token][64 features], the features from
// `column` on.
void expand_values(const KvLayout& l, const uint8_t* block, int column, int vectors, int from, int to,
                   float* panel) {
  const uint8_t* values = block + l.values;
  if (l.type.values == KvElement::Half) {
    for (int t = from; t < to; ++t)
      for (int v = 0; v < vectors; ++v)
        store(panel + t * 64 + 16 * v, load_half(halves(values) + t * l.padded_dim + column + 16 * v));
    return;
  }
  alignas(64) float scales[2][kBlock];
  for (int v = 0; v < vectors; v += 2)
    store(scales[v / 2], load_half(halves(block + l.value_scales) + (column / 32 + v / 2) * kBlock));
  for (int t = from; t < to; ++t)
    for (int v = 0; v < vectors; ++v) {
      const f32x16 scale = set(scales[v / 2][t]);
      if (l.type.values == KvElement::Bits8) {
        const int8_t* code = signed_bytes(values) + t * l.padded_dim + column + 16 * v;
        store(panel + t * 64 + 16 * v, mul(load_i8(code), scale));
      } else {
        const uint8_t* pair = values + t * (l.padded_dim / 2) + column / 2 + v / 2 * 16;
        const f32x16 code = v % 2 == 0 ? load_bits<0, 15>(pair) : load_bits<4, 15>(pair);
        store(panel + t * 64 + 16 * v, mul(sub(code, set(8.0f)), scale));
      }
    }
}

// Scores lie as [kChunk / kPanelTokens][kTileQueries][kPanelTokens]: what one panel touches is contiguous.
inline float* scores_at(const AttentionChunk& a, int query, int token) {
  const int panel = token / kPanelTokens;
  return a.scores + (panel * kTileQueries + query) * kPanelTokens + token % kPanelTokens;
}

// The queries of one register tile, and what they see together.
struct Tile {
  int query, count;
  const float* q;   // [head_dim][kQueryGroup]
  int first, last;  // positions
};

template <int N, int V, typename Keys>
inline void score(const AttentionChunk& a, const Tile& tile, int block, const Keys& keys, f32x16* largest) {
  f32x16 s[N][V];
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v) s[i][v] = zero();
  const float* q = tile.q;
  for (int d = 0; d < a.layout.head_dim; ++d, q += kQueryGroup) {
    f32x16 k[V];
    PYLLM_UNROLL
    for (int v = 0; v < V; ++v) k[v] = keys(block + v, d);
    PYLLM_UNROLL
    for (int i = 0; i < N; ++i) {
      const f32x16 x = set(q[i]);
      PYLLM_UNROLL
      for (int v = 0; v < V; ++v) s[i][v] = fma(k[v], x, s[i][v]);
    }
  }
  for (int i = 0; i < N; ++i) {
    float* scores = scores_at(a, tile.query + i, block * kBlock);
    for (int v = 0; v < V; ++v) {
      const int start = (block + v) * kBlock;
      const int from = clamp(a.first[tile.query + i] - start), to = clamp(a.last[tile.query + i] - start);
      if (a.softcap > 0.0f) s[i][v] = mul(soft_cap(s[i][v], a.softcap), set(1.44269504f));
      if (from > 0 || to < kBlock)
        s[i][v] = from < to ? select(from, to, s[i][v], set(-__builtin_inff())) : set(-__builtin_inff());
      largest[i] = max(s[i][v], largest[i]);
      store(scores + v * kBlock, s[i][v]);
    }
  }
}

template <int N, int V, typename Values>
inline void weigh(const AttentionChunk& a, const Tile& tile, int column, int from, int to,
                  const Values& values) {
  if (from >= to) return;
  f32x16 sums[N][V];
  const int stride = a.layout.padded_dim;
  float* out = a.out + tile.query * stride + column;
  const float* weights = scores_at(a, tile.query, from);
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v) sums[i][v] = load(out + i * stride + 16 * v);
  for (int t = from; t < to; ++t) {
    f32x16 x[V];
    PYLLM_UNROLL
    for (int v = 0; v < V; ++v) x[v] = values(t, v);
    PYLLM_UNROLL
    for (int i = 0; i < N; ++i) {
      const f32x16 p = set(weights[i * kPanelTokens + t - from]);
      PYLLM_UNROLL
      for (int v = 0; v < V; ++v) sums[i][v] = fma(x[v], p, sums[i][v]);
    }
  }
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v) store(out + i * stride + 16 * v, sums[i][v]);
}

// Calls f<V>(i) so that the runs of V vectors from i on cover [begin, end).
template <typename F>
inline void for_vectors(int begin, int end, F f) {
  int i = begin;
  for (; i + kVectors <= end; i += kVectors) f.template operator()<kVectors>(i);
  if constexpr (kVectors > 2)
    for (; i + 2 <= end; i += 2) f.template operator()<2>(i);
  if constexpr (kVectors > 1)
    for (; i < end; ++i) f.template operator()<1>(i);
}

template <typename F>
inline void with_count(int n, F f) {
  switch (n) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    default:
      break;
  }
  if constexpr (kQueries > 3) {
    switch (n) {
      case 4:
        return f.template operator()<4>();
      case 5:
        return f.template operator()<5>();
      default:
        return f.template operator()<6>();
    }
  }
}

template <typename Keys>
void score_blocks(const AttentionChunk& a, const Tile& tile, int begin, int end, const Keys& keys,
                  f32x16* largest) {
  with_count(tile.count, [&]<int N>() {
    for_vectors(begin, end, [&]<int V>(int block) { score<N, V>(a, tile, block, keys, largest); });
  });
}

// Adds the weighted values of positions [from, to), of the features from `column` on.
template <typename Values>
void weigh_columns(const AttentionChunk& a, const Tile& tile, int column, int vectors, int from, int to,
                   Values values) {
  with_count(tile.count, [&]<int N>() {
    for_vectors(0, vectors, [&]<int V>(int vector) {
      weigh<N, V>(a, tile, column + 16 * vector, from, to,
                  [&](int token, int v) { return values(token, vector + v); });
    });
  });
}

// Scores become weights; what a query of the tile does not see, but another does, weighs exactly 0.
void soften(const AttentionChunk& a, const Tile& tile, const f32x16* largest) {
  for (int i = 0; i < tile.count; ++i) {
    const int query = tile.query + i;
    const f32x16 top = set(a.max[query] = max_lane(largest[i]));
    f32x16 total = zero();
    for (int start = tile.first / kBlock * kBlock; start < tile.last; start += kBlock) {
      const int from = clamp(a.first[query] - start), to = clamp(a.last[query] - start);
      float* scores = scores_at(a, query, start);
      f32x16 p = zero();
      if (from < to) {
        p = exp2(sub(load(scores), top));
        if (from > 0 || to < kBlock) p = select(from, to, p, zero());
        total = add(total, p);
      }
      store(scores, p);
    }
    a.sum[query] = sum(total);
  }
}

// Fetches ahead a share of `count` blocks' keys, or values, at each call.
class Prefetch {
 public:
  Prefetch(const uint8_t* const* blocks, int count, int64_t offset, int64_t bytes, int calls)
      : blocks_(blocks), offset_(offset), lines_(bytes / 64), end_(larger(count, 0) * lines_) {
    share_ = (end_ + calls - 1) / calls;
  }
  void operator()() {
    const int64_t stop = next_ + share_ < end_ ? next_ + share_ : end_;
    for (; next_ < stop; ++next_)
      __builtin_prefetch(blocks_[next_ / lines_] + offset_ + next_ % lines_ * 64, 0, 2);
  }

 private:
  const uint8_t* const* blocks_;
  int64_t offset_, lines_, end_, share_, next_ = 0;
};

}  // namespace

void attend(const AttentionChunk& a) {
  Tile tiles[(kTileQueries + kQueries - 1) / kQueries];
  f32x16 largest[kTileQueries];
  int count = 0, first = kChunk, last = 0;
  for (int group = 0; group < a.queries; group += kQueryGroup)
    for (int query = group; query < smaller(group + kQueryGroup, a.queries); query += kQueries) {
      Tile& tile = tiles[count++];
      const int end = smaller(smaller(query + kQueries, group + kQueryGroup), a.queries);
      tile = {query, end - query, a.q + group * a.layout.head_dim + (query - group), kChunk, 0};
      for (int i = query; i < end; ++i) {
        largest[i] = set(-__builtin_inff());
        if (a.first[i] >= a.last[i]) continue;
        tile.first = smaller(tile.first, a.first[i]);
        tile.last = larger(tile.last, a.last[i]);
      }
      first = smaller(first, tile.first);
      last = larger(last, tile.last);
    }

  // Several register tiles share the expansion of keys and values; one alone converts halves as it reads.
  const KvLayout& layout = a.layout;
  const bool expanded = count > 1 || layout.type.keys != KvElement::Half;
  const int end_block = (last + kBlock - 1) / kBlock;
  constexpr int kStep = kPanelTokens / kBlock;
  for (int group = first / kBlock / kStep * kStep; group < end_block; group += kStep) {
    const int begin = larger(group, first / kBlock), end = smaller(group + kStep, end_block);
    Prefetch keys(a.blocks + end, smaller(kStep, end_block - end), 0, layout.values, count);
    Prefetch values(a.blocks + begin, end - begin, layout.values, layout.bytes - layout.values, count);
    if (expanded)
      for (int b = begin; b < end; ++b) expand_keys(layout, a.blocks[b], a.panel + (b - group) * kBlock);
    for (int t = 0; t < count; ++t) {
      keys();
      values();
      const Tile& tile = tiles[t];
      const int from = larger(begin, tile.first / kBlock);
      const int to = smaller(end, (tile.last + kBlock - 1) / kBlock);
      if (expanded)
        score_blocks(a, tile, from, to, PanelKeys{a.panel, group}, largest + tile.query);
      else
        score_blocks(a, tile, from, to, HalfKeys{a.blocks}, largest + tile.query);
    }
  }

  const int padded_dim = layout.padded_dim;
  for (int i = 0; i < a.queries * padded_dim; i += 16) store(a.out + i, zero());
  for (int t = 0; t < count; ++t) soften(a, tiles[t], largest + tiles[t].query);
  Prefetch next(a.next, a.next != nullptr ? kStep : 0, 0, layout.values, 4 * count);

  // Positions that no query sees may hold garbage: they are skipped, not weighted by 0.
  for (int column = 0; column < padded_dim; column += 64) {
    const int vectors = smaller(64, padded_dim - column) / 16;
    for (int group = first / kPanelTokens * kPanelTokens; group < last; group += kPanelTokens) {
      const int begin = larger(group, first), end = smaller(group + kPanelTokens, last);
      if (expanded)
        for (int b = begin / kBlock; b * kBlock < end; ++b)
          expand_values(layout, a.blocks[b], column, vectors, clamp(begin - b * kBlock),
                        clamp(end - b * kBlock), a.panel + (b * kBlock - group) * 64);
      for (int t = 0; t < count; ++t) {
        next();
        const int from = larger(begin, tiles[t].first), to = smaller(end, tiles[t].last);
        if (expanded)
          weigh_columns(a, tiles[t], column, vectors, from, to, PanelValues{a.panel, group});
        else
          weigh_columns(a, tiles[t], column, vectors, from, to,
                        HalfValues{a.blocks, layout.values, padded_dim, column});
      }
    }
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
  const float top = both[0] > both[1] ? both[0] : both[1];
  alignas(64) float factor[16];
  store(factor, exp2(sub(load_partial(both, 2), set(top))));
  const f32x16 keep = set(factor[0]), take = set(factor[1]);
  *max_ = top;
  *sum_ = __builtin_fmaf(*sum_, factor[0], chunk_sum * factor[1]);
  for (int d = 0; d < n; d += 16) store(out + d, fma(load(out + d), keep, mul(load(chunk_out + d), take)));
}

}  // namespace pyllm::cpu::PYLLM_ISA
