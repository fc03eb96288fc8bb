// The paged KV cache and attention over it. Positions are split into chunks of kChunk at fixed borders; each
// chunk is computed from scratch and folded in order, so a token's result depends on its own history only.
#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"

namespace pyllm::cpu {

namespace {

int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Elements of one block of one KV head.
int64_t head_elements(const KvShape& shape) {
  return int64_t{kBlockTokens} * (shape.head_dim + round_up(shape.head_dim, 16));
}

}  // namespace

int64_t CpuBackend::kv_block_bytes(const KvShape& shape) const {
  return head_elements(shape) * shape.kv_heads * shape.layers * static_cast<int64_t>(sizeof(uint16_t));
}

std::unique_ptr<KvCache> CpuBackend::kv_cache(const KvShape& shape, int blocks) {
  auto cache = std::make_unique<CpuKvCache>();
  cache->shape = shape;
  cache->blocks = blocks;
  cache->padded_dim = round_up(shape.head_dim, 16);
  cache->value_offset = int64_t{kBlockTokens} * shape.head_dim;
  cache->head_elements = head_elements(shape);
  cache->memory = Memory(kv_block_bytes(shape) * blocks);
  return cache;
}

void CpuBackend::copy_blocks(KvCache& cache) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const size_t bytes = static_cast<size_t>(kv.head_elements * kv.shape.kv_heads) * sizeof(uint16_t);
  for (const auto& [from, to] : batch_->copies)
    for (int layer = 0; layer < kv.shape.layers; ++layer)
      std::memcpy(kv.head(layer, to, 0), kv.head(layer, from, 0), bytes);
}

void CpuBackend::store_kv(KvCache& cache, int layer, Tensor k, Tensor v) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const int dim = kv.shape.head_dim;
  for (const BatchSequence& s : batch_->sequences) {
    for_rows(s.rows, 8 * k.cols, [&](int64_t i) {
      const int64_t position = s.past + i, row = s.first_row + i;
      const int block = s.blocks[static_cast<size_t>(position / kBlockTokens)], slot = position % kBlockTokens;
      for (int h = 0; h < kv.shape.kv_heads; ++h) {
        uint16_t* keys = kv.head(layer, block, h);
        uint16_t halves[512];
        for (int first = 0; first < dim; first += 512) {
          const int n = std::min(512, dim - first);
          kernels_.to_half(k.row(row) + h * dim + first, n, halves);
          for (int d = 0; d < n; ++d) keys[(first + d) * kBlockTokens + slot] = halves[d];
        }
        kernels_.to_half(v.row(row) + h * dim, dim, keys + kv.value_offset + slot * kv.padded_dim);
      }
    });
  }
}

void CpuBackend::attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) {
  const auto& kv = static_cast<const CpuKvCache&>(cache);
  const int group = shape.heads / shape.kv_heads, dim = shape.head_dim, padded = kv.padded_dim;

  // A tile is some consecutive (row, head of the group) pairs of one sequence and KV head: "queries".
  struct Task {
    const BatchSequence* sequence;
    int kv_head;
    int first, queries;  // of this sequence's rows x group queries
    int first_chunk, chunks;
    int64_t partial;  // where its chunks' results go, -1: folded at once
  };
  std::vector<Task> tasks;
  for (const BatchSequence& s : batch_->sequences)
    for (int h = 0; h < shape.kv_heads; ++h)
      for (int first = 0, left = s.rows * group; left > 0;) {
        const int queries = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const int last_position = s.past + (first + queries - 1) / group,
                  first_position = s.past + first / group;
        const int from = shape.window > 0 ? std::max(0, first_position - shape.window + 1) : 0;
        const int first_chunk = from / kChunk, end_chunk = last_position / kChunk + 1;
        tasks.push_back({&s, h, first, queries, first_chunk, end_chunk - first_chunk, -1});
        first += queries;
        left -= queries;
      }

  // Few queries over a long context (decoding): the chunks of a tile go to several threads and are folded
  // afterwards.
  struct Piece {
    int task, first_chunk, chunks;
  };
  std::vector<Piece> pieces;
  const int64_t result = 2 * kTileQueries + int64_t{kTileQueries} * padded;  // floats: max, sum, out
  int64_t partials = 0;
  const bool split = static_cast<int64_t>(tasks.size()) < 4 * pool_.threads();
  for (size_t t = 0; t < tasks.size(); ++t) {
    Task& task = tasks[t];
    const int step = split ? std::max(1, task.chunks / (4 * pool_.threads())) : task.chunks;
    if (step < task.chunks) {
      task.partial = partials;
      partials += task.chunks;
    }
    for (int c = 0; c < task.chunks; c += step)
      pieces.push_back({static_cast<int>(t), task.first_chunk + c, std::min(step, task.chunks - c)});
  }
  const int64_t mark = arena_.mark();
  auto* partial = arena_.take<float>(partials * result);
  const int64_t local_floats = int64_t{dim} * kTileQueries + 2 * result;
  auto* locals = arena_.take<float>(pool_.threads() * local_floats);

  const auto finish = [&](const Task& task, const float* max_sum_out) {
    for (int i = 0; i < task.queries; ++i) {
      const int query = task.first + i;
      float* to =
          out.row(task.sequence->first_row + query / group) + (task.kv_head * group + query % group) * dim;
      const float* from = max_sum_out + 2 * kTileQueries + i * padded;
      const float inverse = 1.0f / max_sum_out[kTileQueries + i];
      for (int d = 0; d < dim; ++d) to[d] = from[d] * inverse;
    }
  };
  const auto reset = [&](float* running) {
    std::fill(running, running + kTileQueries, -std::numeric_limits<float>::infinity());
    std::fill(running + kTileQueries, running + result, 0.0f);
  };
  const auto fold = [&](const Task& task, float* running, const float* chunk) {
    for (int i = 0; i < task.queries; ++i)
      kernels_.merge(running + i, running + kTileQueries + i, running + 2 * kTileQueries + i * padded, chunk[i],
                     chunk[kTileQueries + i], chunk + 2 * kTileQueries + i * padded, padded);
  };

  pool_.parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    float* scaled = locals + thread * local_floats;
    float *running = scaled + int64_t{dim} * kTileQueries, *chunk_result = running + result;
    for (int64_t p = begin; p < end; ++p) {
      const Piece& piece = pieces[static_cast<size_t>(p)];
      const Task& task = tasks[static_cast<size_t>(piece.task)];
      const BatchSequence& s = *task.sequence;
      for (int i = 0; i < task.queries; ++i) {
        const int query = task.first + i;
        const float* from = q.row(s.first_row + query / group) + (task.kv_head * group + query % group) * dim;
        for (int d = 0; d < dim; ++d) scaled[d * task.queries + i] = from[d] * shape.scale;
      }
      reset(running);
      for (int c = piece.first_chunk; c < piece.first_chunk + piece.chunks; ++c) {
        const int start = c * kChunk;
        const uint16_t* keys[kChunk / kBlockTokens];
        int first[kTileQueries], last[kTileQueries];
        const int last_position = s.past + (task.first + task.queries - 1) / group;
        for (int b = 0; b < kChunk / kBlockTokens && start + b * kBlockTokens <= last_position; ++b)
          keys[b] = kv.head(layer, s.blocks[static_cast<size_t>(start / kBlockTokens + b)], task.kv_head);
        for (int i = 0; i < task.queries; ++i) {
          const int position = s.past + (task.first + i) / group;
          const int from = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
          first[i] = std::clamp(from - start, 0, kChunk);
          last[i] = std::clamp(position + 1 - start, 0, kChunk);
        }
        float* to = task.partial >= 0 ? partial + (task.partial + c - task.first_chunk) * result : chunk_result;
        kernels_.attend({scaled, task.queries, dim, keys, kv.value_offset, padded, first, last, shape.softcap,
                         to, to + kTileQueries, to + 2 * kTileQueries});
        if (task.partial < 0) fold(task, running, to);
      }
      if (task.partial < 0) finish(task, running);
    }
  });
  if (partials > 0) {
    float* running = locals;
    for (const Task& task : tasks) {
      if (task.partial < 0) continue;
      reset(running);
      for (int c = 0; c < task.chunks; ++c) fold(task, running, partial + (task.partial + c) * result);
      finish(task, running);
    }
  }
  arena_.release(mark);
}

}  // namespace pyllm::cpu
