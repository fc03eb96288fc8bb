// The paged KV cache and attention over it (FlashAttention's way: Dao et al., 2022, with the cache's blocks as
// vLLM has them: Kwon et al., 2023). Up to 16 query vectors that share a KV head - rows of a sequence, and
// heads of a group - pass over chunks of 256 positions with fixed borders. A chunk is computed from scratch, 64
// positions a warp, and chunks are folded in order, in the block or afterwards: the bits do not depend on
// which.
#include "backend/cuda/kernels.h"
#include "backend/cuda/reduce.h"
#include "core/batch.h"

namespace pyllm::cuda {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kWarpPositions = kChunk / kWarps, kWarpBlocks = kWarpPositions / kBlockTokens;
constexpr int kSegment = 64;  // features of the values that are summed at a time
constexpr float kLog2E = 1.44269504f;

// Folds a chunk's result into a running one; both sums are relative to their maxima, powers of 2.
struct Fold {
  float keep, take;
  __device__ __forceinline__ static Fold of(float& max, float& sum, float chunk_max, float chunk_sum) {
    if (chunk_max == -INFINITY) return {1.0f, 0.0f};  // saw nothing
    if (max == -INFINITY) {
      max = chunk_max;
      sum = chunk_sum;
      return {0.0f, 1.0f};
    }
    const float top = max > chunk_max ? max : chunk_max;
    const Fold f = {exp2_fast(max - top), exp2_fast(chunk_max - top)};
    max = top;
    sum = fmaf(sum, f.keep, chunk_sum * f.take);
    return f;
  }
  // What is weighted by 0 may be a NaN.
  __device__ __forceinline__ float operator()(float running, float chunk) const {
    if (take == 0.0f) return running;
    return keep == 0.0f ? chunk : fmaf(running, keep, chunk * take);
  }
};

// Four codes of 8 bits times their scales, as halves.
__device__ __forceinline__ uint2 widen(uint32_t codes, const float (&scale)[4]) {
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = static_cast<float>(static_cast<int8_t>(codes >> 8 * i)) * scale[i];
  return make_uint2(pack_halves(x[0], x[1]), pack_halves(x[2], x[3]));
}

// Features 8 t .. 8 t + 7 of a segment of 32 of a key: fragments of two products.
template <bool kBits8>
__device__ __forceinline__ uint4 load_key(const KvLayout& kv, const uint8_t* block, int token, int segment,
                                          int t) {
  const int64_t at = static_cast<int64_t>(token) * kv.padded_dim + segment * 32 + 8 * t;
  if constexpr (!kBits8) return __ldg(reinterpret_cast<const uint4*>(block + 2 * at));
  const uint2 codes = __ldg(reinterpret_cast<const uint2*>(block + at));
  const auto* scales = reinterpret_cast<const uint16_t*>(block + kv.key_scales);
  const float s = half_to_float(__ldg(scales + token * (kv.padded_dim / 32) + segment));
  const float scale[4] = {s, s, s, s};
  const uint2 low = widen(codes.x, scale), high = widen(codes.y, scale);
  return make_uint4(low.x, low.y, high.x, high.y);
}

// Feature d of tokens 4 t .. 4 t + 3: fragments of one product.
template <bool kBits8>
__device__ __forceinline__ uint2 load_value(const KvLayout& kv, const uint8_t* block, int d, int t) {
  const int at = d * kBlockTokens + 4 * t;
  if constexpr (!kBits8) return __ldg(reinterpret_cast<const uint2*>(block + kv.values + 2 * at));
  const uint32_t codes = __ldg(reinterpret_cast<const uint32_t*>(block + kv.values + at));
  const uint2 halves =
      __ldg(reinterpret_cast<const uint2*>(block + kv.value_scales + 2 * (d / 32 * kBlockTokens + 4 * t)));
  const float scale[4] = {
      half_to_float(static_cast<uint16_t>(halves.x)), half_to_float(static_cast<uint16_t>(halves.x >> 16)),
      half_to_float(static_cast<uint16_t>(halves.y)), half_to_float(static_cast<uint16_t>(halves.y >> 16))};
  return widen(codes, scale);
}

// Keeps the halves of tokens within [from, to), token 0 being the first of x; others become 0.
__device__ __forceinline__ uint2 mask_tokens(uint2 x, int from, int to) {
  const uint32_t low = (from <= 0 && to > 0 ? 0xffffu : 0u) | (from <= 1 && to > 1 ? 0xffff0000u : 0u);
  const uint32_t high = (from <= 2 && to > 2 ? 0xffffu : 0u) | (from <= 3 && to > 3 ? 0xffff0000u : 0u);
  return make_uint2(x.x & low, x.y & high);
}

struct Shared {
  uint32_t* q;     // [segment of 32][lane][8 words]: the fragments of its two products
  float* max;      // [warp][query]
  float* sum;      // [warp][query]
  float* partial;  // [warp][query][kSegment + 4]
  float* out;      // [query][head_dim]
  float* running;  // [2][query]: max and sum
  float* fold;     // [2][query]
  static constexpr int kPitch = kSegment + 4;
  static __host__ __device__ int floats(const KvLayout& kv) {
    return kv.padded_dim / 32 * 256 + 2 * kWarps * kTileQueries + kWarps * kTileQueries * kPitch +
           kTileQueries * kv.head_dim + 4 * kTileQueries;
  }
  __device__ Shared(float* memory, const KvLayout& kv) {
    q = reinterpret_cast<uint32_t*>(memory);
    max = memory + kv.padded_dim / 32 * 256;
    sum = max + kWarps * kTileQueries;
    partial = sum + kWarps * kTileQueries;
    running = partial + kWarps * kTileQueries * kPitch;
    fold = running + 2 * kTileQueries;
    out = fold + 2 * kTileQueries;
  }
};

// Which query vectors a block has: query i is row i / heads of the tile and head first_head + i % heads.
struct Queries {
  AttentionTile tile;
  int first_head, heads, count, kv_head;

  __device__ Queries(const AttendArgs& a, int index) {
    kv_head = index % a.kv_heads;
    const int part = index / a.kv_heads % a.group_tiles;
    tile = a.tiles[index / a.kv_heads / a.group_tiles];
    const int each = (a.group + a.group_tiles - 1) / a.group_tiles;
    first_head = part * each;
    heads = min(each, a.group - first_head);
    count = tile.rows * heads;
  }
  __device__ int position(int i) const { return tile.position + i / heads; }
  __device__ int64_t row(int i) const { return tile.first_row + i / heads; }
  __device__ int64_t column(const AttendArgs& a, int i) const {
    return (static_cast<int64_t>(kv_head) * a.group + first_head + i % heads) * a.kv.head_dim;
  }
  __device__ int first_seen(const AttendArgs& a, int i) const {
    return a.window > 0 ? max(0, position(i) - a.window + 1) : 0;
  }
};

template <bool kBits8>
__global__ void __launch_bounds__(kThreads) attend_kernel(const AttendArgs a) {
  after_previous();
  const KvLayout kv = a.kv;
  const Shared shared(shared_memory<float>(), kv);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t = lane % 4;
  const Queries queries(a, static_cast<int>(blockIdx.x));
  if (queries.count == 0) return;  // padding
  const int last_position = queries.position(queries.count - 1);
  const int seen_from = queries.first_seen(a, 0), first_chunk = seen_from / kChunk;
  const bool folds = a.partial == nullptr;
  const int begin = folds ? first_chunk : static_cast<int>(blockIdx.y);
  const int end = folds ? last_position / kChunk + 1 : begin + 1;
  if (begin < first_chunk || begin > last_position / kChunk) return;  // the whole block

  // Queries as halves, where the lanes' fragments lie: lane (g, t) reads features 8 t .. 8 t + 7 of rows g, g
  // + 8.
  for (int i = thread; i < kv.padded_dim * (kTileQueries / 2); i += kThreads) {
    const int query = i / (kv.padded_dim / 2), d = i % (kv.padded_dim / 2) * 2;
    float x[2] = {0.0f, 0.0f};
    if (query < queries.count)
      for (int k = 0; k < 2; ++k)
        if (d + k < kv.head_dim)
          x[k] = a.q[queries.row(query) * a.q_stride + queries.column(a, query) + d + k] * a.scale;
    // Of features 8 t .. 8 t + 7 the first four go to the first product, two words of each row.
    const int in = d % 8, product = in / 4, word = in % 4 / 2;
    const int to = (d / 32 * 32 + query % 8 * 4 + d % 32 / 8) * 8 + product * 4 + word * 2 + query / 8;
    shared.q[to] = pack_halves(x[0], x[1]);
  }
  for (int i = thread; i < kTileQueries; i += kThreads) {
    shared.running[i] = -INFINITY;
    shared.running[kTileQueries + i] = 0.0f;
  }
  __syncthreads();

  int first[2], last[2];  // what this lane's two queries see
  for (int r = 0; r < 2; ++r) {
    const int i = g + 8 * r;
    first[r] = i < queries.count ? queries.first_seen(a, i) : 0;
    last[r] = i < queries.count ? queries.position(i) + 1 : 0;
  }

  for (int chunk = begin; chunk < end; ++chunk) {
    const int start = chunk * kChunk + warp * kWarpPositions;
    const int64_t head_bytes = kv.bytes, block_bytes = head_bytes * a.kv_heads;
    const uint8_t* blocks[kWarpBlocks];
#pragma unroll
    for (int b = 0; b < kWarpBlocks; ++b) {
      const int position = start + b * kBlockTokens;
      const bool used = position <= last_position && position + kBlockTokens > seen_from;
      blocks[b] = used ? a.layer + a.tables[queries.tile.table + position / kBlockTokens] * block_bytes +
                             queries.kv_head * head_bytes
                       : nullptr;
    }

    // Scores. Column j of product n of a block is token 4 (j / 2) + 2 n + j % 2, so that a lane's scores of
    // both, taken together, are those of tokens 4 t .. 4 t + 3: what a value's fragment holds.
    float s[kWarpBlocks][2][4];
    float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int b = 0; b < kWarpBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 8; ++i) s[b][i / 4][i % 4] = 0.0f;
      if (blocks[b] != nullptr) {
        for (int segment = 0; segment < kv.padded_dim / 32; ++segment) {
          const auto* q = reinterpret_cast<const uint4*>(shared.q + (segment * 32 + lane) * 8);
          const uint4 q0 = q[0], q1 = q[1];
          const uint32_t a0[4] = {q0.x, q0.y, q0.z, q0.w}, a1[4] = {q1.x, q1.y, q1.z, q1.w};
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const uint4 k = load_key<kBits8>(kv, blocks[b], 4 * (g / 2) + 2 * n + g % 2, segment, t);
            mma_half_16(s[b][n], a0, k.x, k.y);
            mma_half_16(s[b][n], a1, k.z, k.w);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& score = s[b][n][i];
          if (a.softcap > 0.0f) {  // cap * tanh(x / cap), tanh(z) = 2 sigmoid(2 z) - 1
            const float e = expf(score * (-2.0f / a.softcap));
            score = a.softcap * (2.0f / (1.0f + e) - 1.0f) * kLog2E;
          }
          const int position = start + b * kBlockTokens + 4 * t + 2 * n + i % 2;
          if (position < first[i / 2] || position >= last[i / 2]) score = -INFINITY;
          largest[i / 2] = score > largest[i / 2] || score != score ? score : largest[i / 2];
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest[r], mask);
        largest[r] = other > largest[r] || other != other ? other : largest[r];
      }
      if (t == 0) shared.max[warp * kTileQueries + g + 8 * r] = largest[r];
    }
    __syncthreads();
    float top[2], total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = shared.max[g + 8 * r];
      for (int w = 1; w < kWarps; ++w) {
        const float other = shared.max[w * kTileQueries + g + 8 * r];
        top[r] = other > top[r] || other != other ? other : top[r];
      }
    }

    // Weights, as fragments; the sums are of the rounded ones.
    uint32_t p[kWarpBlocks][4];
#pragma unroll
    for (int b = 0; b < kWarpBlocks; ++b)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float weight[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float score = s[b][n][2 * r + i];
            weight[i] = score == -INFINITY ? 0.0f : exp2_fast(score - top[r]);
          }
          const uint32_t word = pack_halves(weight[0], weight[1]);
          total[r] +=
              half_to_float(static_cast<uint16_t>(word)) + half_to_float(static_cast<uint16_t>(word >> 16));
          p[b][2 * n + r] = word;
        }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] = warp_sum(total[r], 4);
      if (t == 0) shared.sum[warp * kTileQueries + g + 8 * r] = total[r];
    }
    __syncthreads();

    // The chunk's maxima and sums, and how it folds into what came before.
    if (thread < kTileQueries) {
      float chunk_max = shared.max[thread], chunk_sum = shared.sum[thread];
      for (int w = 1; w < kWarps; ++w) {
        const float other = shared.max[w * kTileQueries + thread];
        chunk_max = other > chunk_max || other != other ? other : chunk_max;
        chunk_sum += shared.sum[w * kTileQueries + thread];
      }
      if (folds) {
        const Fold fold =
            Fold::of(shared.running[thread], shared.running[kTileQueries + thread], chunk_max, chunk_sum);
        shared.fold[thread] = fold.keep;
        shared.fold[kTileQueries + thread] = fold.take;
      } else {
        shared.running[thread] = chunk_max;
        shared.running[kTileQueries + thread] = chunk_sum;
      }
    }

    for (int segment = 0; segment < kv.head_dim; segment += kSegment) {
      float o[kSegment / 8][4];
#pragma unroll
      for (int i = 0; i < kSegment / 8 * 4; ++i) o[i / 4][i % 4] = 0.0f;
#pragma unroll
      for (int b = 0; b < kWarpBlocks; ++b) {
        if (blocks[b] == nullptr) continue;
        // Positions that no query sees may hold garbage.
        const int base = start + b * kBlockTokens + 4 * t;
#pragma unroll
        for (int n = 0; n < kSegment / 8; ++n) {
          if (segment + 8 * n >= kv.head_dim) break;
          const uint2 v = mask_tokens(load_value<kBits8>(kv, blocks[b], segment + 8 * n + g, t),
                                      seen_from - base, last_position + 1 - base);
          mma_half_16(o[n], p[b], v.x, v.y);
        }
      }
#pragma unroll
      for (int n = 0; n < kSegment / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          shared.partial[(warp * kTileQueries + g + i / 2 * 8) * Shared::kPitch + 8 * n + 2 * t + i % 2] =
              o[n][i];
      __syncthreads();
      const int width = min(kSegment, kv.head_dim - segment);
      for (int i = thread; i < queries.count * width; i += kThreads) {
        const int query = i / width, d = i % width;
        float sum = shared.partial[query * Shared::kPitch + d];
        for (int w = 1; w < kWarps; ++w) sum += shared.partial[(w * kTileQueries + query) * Shared::kPitch + d];
        float* out = shared.out + query * kv.head_dim + segment + d;
        if (folds) {
          const Fold fold = {shared.fold[query], shared.fold[kTileQueries + query]};
          *out = fold(*out, sum);
        } else {
          *out = sum;
        }
      }
      __syncthreads();
    }
  }

  if (folds) {
    for (int i = thread; i < queries.count * kv.head_dim; i += kThreads) {
      const int query = i / kv.head_dim, d = i % kv.head_dim;
      const float inverse = 1.0f / shared.running[kTileQueries + query];
      a.out[queries.row(query) * a.out_stride + queries.column(a, query) + d] = shared.out[i] * inverse;
    }
  } else {
    float* to =
        a.partial + (static_cast<int64_t>(blockIdx.x) * a.chunks + begin) * kTileQueries * (kv.head_dim + 2);
    for (int i = thread; i < queries.count * (kv.head_dim + 2); i += kThreads) {
      const int query = i / (kv.head_dim + 2), d = i % (kv.head_dim + 2);
      to[i] = d < kv.head_dim ? shared.out[query * kv.head_dim + d]
                              : shared.running[(d - kv.head_dim) * kTileQueries + query];
    }
  }
}

// Folds the chunks of a block's queries, as the block itself would have: a block of threads a query.
__global__ void __launch_bounds__(kThreads) merge_kernel(const AttendArgs a) {
  after_previous();
  const int dim = a.kv.head_dim, pitch = dim + 2, query = static_cast<int>(blockIdx.y);
  const Queries queries(a, static_cast<int>(blockIdx.x));
  if (query >= queries.count) return;
  const int first_chunk = queries.first_seen(a, 0) / kChunk;
  const int end = queries.position(queries.count - 1) / kChunk + 1;
  const float* from =
      a.partial + static_cast<int64_t>(blockIdx.x) * a.chunks * kTileQueries * pitch + query * pitch;
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += kThreads) {
    float top = -INFINITY, sum = 0.0f, out = 0.0f;
    for (int chunk = first_chunk; chunk < end; ++chunk) {
      const float* part = from + static_cast<int64_t>(chunk) * kTileQueries * pitch;
      const Fold fold = Fold::of(top, sum, part[dim], part[dim + 1]);
      out = fold(out, part[d]);
    }
    a.out[queries.row(query) * a.out_stride + queries.column(a, query) + d] = out * (1.0f / sum);
  }
}

// Feature d of a head that lies in shared memory, rotated with a row of the table.
__device__ __forceinline__ float rotated(const StoreArgs& a, const float* x, const float* table, int d) {
  if (d >= 2 * a.n) return x[d];
  if (!a.halves) return fmaf(x[d ^ 1], table[2 * a.n + d], x[d] * table[d]);
  const int i = d < a.n ? d : d - a.n;
  return fmaf(d < a.n ? -x[a.n + i] : x[i], table[a.n + i], x[d] * table[i]);
}

// Lane's feature of segment `segment` of a key or value, for token `token` of a block.
__device__ void store_segment(const KvLayout& kv, uint8_t* block, bool is_value, int token, int segment,
                              int lane, float x) {
  const int d = segment * 32 + lane;
  const int64_t at = is_value ? static_cast<int64_t>(d) * kBlockTokens + token
                              : static_cast<int64_t>(token) * kv.padded_dim + d;
  if (!kv.bits8) {
    reinterpret_cast<uint16_t*>(block + (is_value ? kv.values : 0))[at] =
        static_cast<uint16_t>(pack_halves(x, 0.0f));
    return;
  }
  const float magnitude = fabsf(x);
  const float largest = warp_max(magnitude < INFINITY ? magnitude : INFINITY);
  const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
  const float rounded = rintf(x * inverse);
  const int code = rounded >= -127.0f && rounded <= 127.0f ? static_cast<int>(rounded) : 0;
  reinterpret_cast<int8_t*>(block + (is_value ? kv.values : 0))[at] = static_cast<int8_t>(code);
  if (lane == 0) {
    const float scale = largest < INFINITY ? largest / 127.0f : NAN;
    auto* scales = reinterpret_cast<uint16_t*>(block + (is_value ? kv.value_scales : kv.key_scales));
    scales[is_value ? segment * kBlockTokens + token : token * (kv.padded_dim / 32) + segment] =
        static_cast<uint16_t>(pack_halves(scale, 0.0f));
  }
}

// A warp a head of a row: of q, of k or of v.
__global__ void __launch_bounds__(kThreads) store_kernel(const StoreArgs a) {
  after_previous();
  const KvLayout& kv = a.kv;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int heads = a.q_heads + 2 * a.kv_heads;
  const int64_t index = blockIdx.x * static_cast<int64_t>(kWarps) + warp, row = index / heads;
  if (row >= a.rows) return;  // a whole warp
  const int head = static_cast<int>(index % heads), kv_head = (head - a.q_heads) % a.kv_heads;
  const bool is_query = head < a.q_heads, is_value = head >= a.q_heads + a.kv_heads;
  const int slot = a.slots[row];
  if (!is_query && slot < 0) return;
  float* q = a.q + row * a.q_stride + static_cast<int64_t>(head) * kv.head_dim;
  const float* from = is_query ? q
                               : (is_value ? a.v + row * a.v_stride : a.k + row * a.k_stride) +
                                     static_cast<int64_t>(kv_head) * kv.head_dim;
  float* x = shared_memory<float>() + warp * kv.padded_dim;
  for (int d = lane; d < kv.padded_dim; d += 32) x[d] = d < kv.head_dim ? from[d] : 0.0f;
  const float* norm = is_query ? a.q_norm : is_value ? nullptr : a.k_norm;
  if (norm != nullptr) {
    float squares = 0.0f;
    for (int d = lane; d < kv.head_dim; d += 32) squares = fmaf(x[d], x[d], squares);
    const float factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(kv.head_dim) + a.eps);
    for (int d = lane; d < kv.head_dim; d += 32) x[d] = x[d] * factor * norm[d];
  }
  __syncwarp();
  uint8_t* block = a.layer + (static_cast<int64_t>(slot / kBlockTokens) * a.kv_heads + kv_head) * kv.bytes;
  const bool turns = !is_value && a.table != nullptr;
  for (int segment = 0; segment < kv.padded_dim / 32; ++segment) {
    const int d = segment * 32 + lane;
    const float value = turns ? rotated(a, x, a.table + row * a.table_stride, d) : x[d];
    if (!is_query)
      store_segment(kv, block, is_value, slot % kBlockTokens, segment, lane, value);
    else if (d < kv.head_dim)
      q[d] = value;
  }
}

__global__ void __launch_bounds__(kThreads) copy_kernel(const CopyArgs a) {
  after_previous();
  uint8_t* layer = a.cache + blockIdx.y * a.layer_bytes;
  const auto* from = reinterpret_cast<const uint4*>(layer + a.from * a.block_bytes);
  auto* to = reinterpret_cast<uint4*>(layer + a.to * a.block_bytes);
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < a.block_bytes / 16;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    to[i] = from[i];
}

}  // namespace

KvLayout kv_layout(KvElement element, int head_dim) {
  KvLayout kv{};
  kv.head_dim = head_dim;
  kv.padded_dim = (head_dim + 31) / 32 * 32;
  kv.bits8 = element == KvElement::Bits8;
  const int32_t codes = kBlockTokens * kv.padded_dim * (kv.bits8 ? 1 : 2);
  const int32_t scales = kv.bits8 ? kBlockTokens * (kv.padded_dim / 32) * 2 : 0;
  kv.values = codes;
  kv.key_scales = 2 * codes;
  kv.value_scales = 2 * codes + scales;
  kv.bytes = 2 * codes + 2 * scales;
  return kv;
}

void store_kv(Stream& stream, const StoreArgs& args) {
  const int64_t warps = static_cast<int64_t>(args.rows) * (args.q_heads + 2 * args.kv_heads);
  stream.launch(&store_kernel, static_cast<unsigned>((warps + kWarps - 1) / kWarps), kThreads,
                sizeof(float) * static_cast<size_t>(kWarps * args.kv.padded_dim), args);
}

void copy_block(Stream& stream, const CopyArgs& args) {
  const auto blocks = static_cast<unsigned>((args.block_bytes / 16 + kThreads - 1) / kThreads);
  stream.launch(&copy_kernel, dim3(blocks, static_cast<unsigned>(args.layers)), kThreads, 0, args);
}

void attend(Stream& stream, const AttendArgs& args) {
  const auto blocks = static_cast<unsigned>(args.tile_count * args.group_tiles * args.kv_heads);
  const size_t shared = sizeof(float) * static_cast<size_t>(Shared::floats(args.kv));
  const unsigned chunks = args.partial != nullptr ? static_cast<unsigned>(args.chunks) : 1;
  stream.launch(args.kv.bits8 ? &attend_kernel<true> : &attend_kernel<false>, dim3(blocks, chunks), kThreads,
                shared, args);
  if (args.partial != nullptr) stream.launch(&merge_kernel, dim3(blocks, kTileQueries), kThreads, 0, args);
}

}  // namespace pyllm::cuda
