// The paged KV cache and attention over it. Positions are split into chunks of kChunk at fixed borders; each
// chunk is computed from scratch and folded in order, so a token's result depends on its own history only.
#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/cpu/attention_plan.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kv_cache.h"

namespace pyllm::cpu {

namespace {

constexpr float kLog2E = 1.44269504f;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What attention over some chunks gives for each query of a tile: as the kernels' max, sum and out.
struct Result {
  float* max;
  float* sum;
  float* out;  // [query][padded_dim]
  static int64_t floats(int queries, int padded_dim) { return round_up(queries * (2 + padded_dim), 16); }
  Result(float* memory, int queries, int padded_dim)
      : max(memory + queries * padded_dim), sum(max + queries), out(memory), padded_dim_(padded_dim) {}

  void fold(const Kernels& kernels, int i, const Result& chunk, int k) const {
    kernels.merge(max + i, sum + i, out + i * padded_dim_, chunk.max[k], chunk.sum[k],
                  chunk.out + k * padded_dim_, padded_dim_);
  }

 private:
  int padded_dim_;
};

}  // namespace

int64_t CpuBackend::kv_block_bytes(const KvShape& shape) const {
  return kv_layout(kv_type_, shape.head_dim).bytes * shape.kv_heads * shape.layers;
}

std::unique_ptr<KvCache> CpuBackend::kv_cache(const KvShape& shape, int blocks) {
  return std::make_unique<CpuKvCache>(shape, kv_type_, blocks);
}

void CpuBackend::copy_blocks(KvCache& cache) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const auto bytes = static_cast<size_t>(kv.layout.bytes * kv.shape.kv_heads);
  for (const auto& [from, to] : batch_->copies)
    for (int layer = 0; layer < kv.shape.layers; ++layer)
      std::memcpy(kv.head(layer, to, 0), kv.head(layer, from, 0), bytes);
}

void CpuBackend::read_block(const KvCache& cache, int32_t block, std::byte* out) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const int64_t bytes = kv.layout.bytes * kv.shape.kv_heads;
  for (int layer = 0; layer < kv.shape.layers; ++layer)
    std::memcpy(out + layer * bytes, kv.head(layer, block, 0), static_cast<size_t>(bytes));
}

void CpuBackend::write_block(KvCache& cache, int32_t block, const std::byte* from) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const int64_t bytes = kv.layout.bytes * kv.shape.kv_heads;
  for (int layer = 0; layer < kv.shape.layers; ++layer)
    std::memcpy(kv.head(layer, block, 0), from + layer * bytes, static_cast<size_t>(bytes));
}

void CpuBackend::store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const int dim = kv.shape.head_dim;
  if (rotation.q_norm != nullptr) rms_norm(q, *rotation.q_norm, rotation.eps, dim, q, false);
  if (rotation.k_norm != nullptr) rms_norm(k, *rotation.k_norm, rotation.eps, dim, k, false);
  if (rotation.table.data != nullptr) rope(q, k, dim, rotation.pairs, rotation.table);
  for (const BatchSequence& s : batch_->sequences) {
    for_rows(s.rows, 8 * k.cols, [&](int64_t i) {
      const int64_t position = s.past + i, row = s.first_row + i;
      const int block = s.blocks[static_cast<size_t>(position / kBlockTokens)], slot = position % kBlockTokens;
      const auto rotated = [&](KvElement element, const float* x, std::vector<float>& copy) -> const float* {
        if (!is_rotated(element)) return x;
        copy.assign(x, x + dim);
        rotate(copy.data(), dim);
        return copy.data();
      };
      std::vector<float> key_copy, value_copy;
      for (int h = 0; h < kv.shape.kv_heads; ++h) {
        const float* key = rotated(kv.layout.type.keys, k.row(row) + h * dim, key_copy);
        const float* value = rotated(kv.layout.type.values, v.row(row) + h * dim, value_copy);
        store_token(kernels_, kv.layout, kv.head(layer, block, h), slot, key, value);
      }
    });
  }
}

const AttentionPlan& CpuBackend::attention_plan(const AttentionShape& shape) {
  const int group = shape.heads / shape.kv_heads;
  for (const AttentionPlan& plan : attention_)
    if (plan.group == group && plan.window == shape.window) return plan;
  return attention_.emplace_back(plan_attention(*batch_, group, shape.window, shape.kv_heads, pool_.threads()));
}

void CpuBackend::attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const AttentionPlan& plan = attention_plan(shape);
  const int dim = shape.head_dim, padded = kv.layout.padded_dim;
  const float scale = shape.softcap > 0.0f ? shape.scale : shape.scale * kLog2E;

  const int64_t mark = arena_.mark();
  const int64_t slot_floats = Result::floats(1, padded);
  auto* slots = arena_.take<float>(plan.slots * shape.kv_heads * slot_floats);
  const auto slot = [&](const AttentionQuery& query, int kv_head, int chunk) {
    const int64_t index = kv_head * plan.slots + query.slot + chunk - query.first_chunk;
    return Result(slots + index * slot_floats, 1, padded);
  };
  const auto finish = [&](const AttentionQuery& query, int kv_head, const Result& result, int i) {
    float* to = out.row(query.row) + (kv_head * plan.group + query.head) * dim;
    const float inverse = 1.0f / result.sum[i];
    for (int d = 0; d < dim; ++d) to[d] = result.out[i * padded + d] * inverse;
    if (is_rotated(kv.layout.type.values)) rotate(to, dim);
  };

  const int64_t q_floats = int64_t{kTileQueries} * dim, score_floats = int64_t{kTileQueries} * kChunk;
  const int64_t panel_floats = int64_t{std::max(dim, 64)} * 64,
                tile_floats = Result::floats(kTileQueries, padded);
  const int64_t local_floats = q_floats + score_floats + panel_floats + 2 * tile_floats;
  auto* locals = arena_.take<float>(pool_.threads() * local_floats);

  const auto compute = [&](const AttentionPiece& piece, int kv_head, int thread) {
    float* const packed = locals + thread * local_floats;
    float *const scores = packed + q_floats, *const panel = scores + score_floats;
    const Result running(panel + panel_floats, kTileQueries, padded);
    const Result chunk(panel + panel_floats + tile_floats, kTileQueries, padded);
    const AttentionQuery* queries = plan.queries.data() + piece.first_query;
    for (int i = 0; i < piece.queries; ++i) {
      const float* from = q.row(queries[i].row) + (kv_head * plan.group + queries[i].head) * dim;
      if (is_rotated(kv.layout.type.keys)) {
        std::copy_n(from, dim, panel);
        rotate(panel, dim);
        from = panel;
      }
      float* to = packed + i / kQueryGroup * kQueryGroup * dim + i % kQueryGroup;
      for (int d = 0; d < dim; ++d) to[d * kQueryGroup] = from[d] * scale;
    }
    const bool folded = queries[0].slot < 0;
    std::fill(running.max, running.max + piece.queries, -std::numeric_limits<float>::infinity());
    for (int c = piece.first_chunk; c < piece.first_chunk + piece.chunks; ++c) {
      const uint8_t *blocks[kChunk / kBlockTokens], *next[4];
      int first[kTileQueries], last[kTileQueries], end = 0;
      for (int i = 0; i < piece.queries; ++i) {
        first[i] = std::clamp(queries[i].first - c * kChunk, 0, kChunk);
        last[i] = std::clamp(queries[i].position + 1 - c * kChunk, 0, kChunk);
        end = std::max(end, last[i]);
      }
      for (int b = 0; b * kBlockTokens < end; ++b)
        blocks[b] = kv.head(layer, piece.blocks[c * (kChunk / kBlockTokens) + b], kv_head);
      const bool more = c + 1 < piece.first_chunk + piece.chunks;
      for (int b = 0; more && b < 4; ++b) {  // the last chunk may be shorter
        const int last_position = queries[piece.queries - 1].position;
        const int at = std::min((c + 1) * (kChunk / kBlockTokens) + b, last_position / kBlockTokens);
        next[b] = kv.head(layer, piece.blocks[at], kv_head);
      }
      kernels_.attend({packed, piece.queries, kv.layout, blocks, more ? next : nullptr, first, last,
                       shape.softcap, scores, panel, chunk.max, chunk.sum, chunk.out});
      for (int i = 0; i < piece.queries; ++i) {
        if (folded) {
          running.fold(kernels_, i, chunk, i);
        } else {
          const Result to = slot(queries[i], kv_head, c);
          *to.max = chunk.max[i];
          *to.sum = chunk.sum[i];
          std::copy_n(chunk.out + i * padded, padded, to.out);
        }
      }
    }
    if (folded)
      for (int i = 0; i < piece.queries; ++i) finish(queries[i], kv_head, running, i);
  };
  const auto pieces = static_cast<int64_t>(plan.pieces.size());
  pool_.parallel_for(pieces * shape.kv_heads, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i)
      compute(plan.pieces[static_cast<size_t>(i % pieces)], static_cast<int>(i / pieces), thread);
  });

  const auto folds = static_cast<int64_t>(plan.folds.size());
  for_rows(folds * shape.kv_heads, folds == 0 ? 1 : 4 * padded * plan.folds[0].chunks, [&](int64_t i) {
    const AttentionFold& fold = plan.folds[static_cast<size_t>(i / shape.kv_heads)];
    const AttentionQuery& query = plan.queries[static_cast<size_t>(fold.query)];
    const int kv_head = static_cast<int>(i % shape.kv_heads);
    const Result first = slot(query, kv_head, query.first_chunk);  // folds the others into it
    for (int c = 1; c < fold.chunks; ++c)
      first.fold(kernels_, 0, slot(query, kv_head, query.first_chunk + c), 0);
    finish(query, kv_head, first, 0);
  });
  arena_.release(mark);
}

}  // namespace pyllm::cpu
