#include "backend/cpu/attention_plan.h"

#include <algorithm>
#include <span>
#include <unordered_map>
#include <utility>

#include "backend/cpu/kernels.h"

namespace pyllm::cpu {

namespace {

constexpr int kChunkBlocks = kChunk / kBlockTokens;
constexpr int kPiecesPerThread = 16;  // enough that the last ones leave nobody waiting for long

// Chunk `chunk` of sequences whose block tables agree on it.
struct Sharing {
  int chunk;
  std::vector<size_t> sequences;
};

// Up to kTileQueries queries of a sequence.
struct Tile {
  int first_query, queries;
  int chunks;
};

int64_t work(const AttentionPiece& p) { return int64_t{p.chunks} * (p.queries + 4); }

class Planner {
 public:
  Planner(const Batch& batch, int group, int window) : sequences_(batch.sequences) {
    plan_.group = group;
    plan_.window = window;
  }

  AttentionPlan plan(int kv_heads, int threads) {
    find_sharing();
    for (size_t i = 0; i < sequences_.size(); ++i) add_tiles(i);
    const size_t own = plan_.queries.size();
    for (const Sharing& sharing : sharing_) add_shared(sharing);
    cut(kv_heads, threads);
    give_slots(own);
    return std::move(plan_);
  }

 private:
  int chunks(const BatchSequence& s) const { return (s.past + s.rows - 1) / kChunk + 1; }
  int queries(const BatchSequence& s) const { return s.rows * plan_.group; }
  int first_seen(int position) const { return plan_.window > 0 ? std::max(0, position - plan_.window + 1) : 0; }
  std::span<const int32_t> blocks(const BatchSequence& s, int chunk) const {
    const int begin = chunk * kChunkBlocks, all = (s.past + s.rows - 1) / kBlockTokens + 1;
    return {s.blocks.data() + begin, static_cast<size_t>(std::min(kChunkBlocks, all - begin))};
  }

  // Only sequences with few queries gain by sharing: many fill a tile by themselves.
  void find_sharing() {
    shared_.resize(sequences_.size());
    std::unordered_map<int64_t, size_t> seen;  // chunk and first block: where in `all`
    std::vector<Sharing> all;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const BatchSequence& s = sequences_[i];
      shared_[i].assign(static_cast<size_t>(chunks(s)), false);
      if (queries(s) >= kTileQueries || sequences_.size() == 1) continue;
      for (int c = first_seen(s.past) / kChunk; c < chunks(s); ++c) {
        const auto mine = blocks(s, c);
        const auto [at, is_new] = seen.try_emplace(int64_t{c} << 32 | mine[0], all.size());
        if (is_new)
          all.push_back({c, {i}});
        else if (Sharing& other = all[at->second];
                 std::ranges::equal(mine, blocks(sequences_[other.sequences[0]], c)))
          other.sequences.push_back(i);
      }
    }
    for (Sharing& sharing : all) {
      if (sharing.sequences.size() == 1) continue;
      for (const size_t i : sharing.sequences) shared_[i][static_cast<size_t>(sharing.chunk)] = true;
      sharing_.push_back(std::move(sharing));
    }
  }

  // A sequence's queries, and pieces of the chunks that it shares with nobody.
  void add_tiles(size_t i) {
    const BatchSequence& s = sequences_[i];
    first_query_.push_back(static_cast<int>(plan_.queries.size()));
    for (int first = 0; first < queries(s); first += kTileQueries) {
      const int at = static_cast<int>(plan_.queries.size()), n = std::min(kTileQueries, queries(s) - first);
      const int begin = first_seen(s.past + first / plan_.group) / kChunk;
      const int end = (s.past + (first + n - 1) / plan_.group) / kChunk + 1;
      for (int k = first; k < first + n; ++k) {
        const int position = s.past + k / plan_.group;
        plan_.queries.push_back(
            {s.first_row + k / plan_.group, k % plan_.group, first_seen(position), position, begin});
      }
      tiles_.push_back({at, n, end - begin});
      const auto shared = [&](int c) -> bool { return shared_[i][static_cast<size_t>(c)]; };
      for (int c = begin; c < end; ++c) {
        if (shared(c)) continue;
        const int first_chunk = c;
        while (c + 1 < end && !shared(c + 1)) ++c;
        plan_.pieces.push_back({at, n, s.blocks.data(), first_chunk, c + 1 - first_chunk});
      }
    }
  }

  // Pieces of the queries of all sequences that share a chunk. Their entries are copies.
  void add_shared(const Sharing& sharing) {
    const int32_t* table = sequences_[sharing.sequences[0]].blocks.data();
    AttentionPiece piece{static_cast<int>(plan_.queries.size()), 0, table, sharing.chunk, 1};
    for (const size_t i : sharing.sequences)
      for (int k = 0; k < queries(sequences_[i]); ++k) {
        if (piece.queries == kTileQueries) {
          plan_.pieces.push_back(piece);
          piece.first_query += piece.queries;
          piece.queries = 0;
        }
        copied_.push_back(first_query_[i] + k);
        plan_.queries.push_back(plan_.queries[static_cast<size_t>(copied_.back())]);
        ++piece.queries;
      }
    plan_.pieces.push_back(piece);
  }

  // Cuts pieces that would keep one thread busy for long, and orders them.
  void cut(int kv_heads, int threads) {
    int64_t total = 0;
    for (const AttentionPiece& p : plan_.pieces) total += work(p) * kv_heads;
    const int64_t limit = threads == 1 ? total : total / (int64_t{kPiecesPerThread} * threads);
    std::vector<AttentionPiece> pieces;
    for (AttentionPiece p : plan_.pieces) {
      const int step = static_cast<int>(std::max<int64_t>(1, limit / (p.queries + 4)));
      for (const int end = p.first_chunk + p.chunks; p.first_chunk < end; p.first_chunk += p.chunks) {
        p.chunks = std::min(step, end - p.first_chunk);
        pieces.push_back(p);
      }
    }
    std::ranges::stable_sort(pieces, std::ranges::greater(), work);
    plan_.pieces = std::move(pieces);
  }

  // Tiles that no single piece computes alone get a slot for every chunk. `own`: queries that are no copies.
  void give_slots(size_t own) {
    std::vector<int> computed(plan_.queries.size(), 0);  // chunks of a piece that begins with this query
    for (const AttentionPiece& p : plan_.pieces) computed[static_cast<size_t>(p.first_query)] = p.chunks;
    for (const Tile& tile : tiles_) {
      if (computed[static_cast<size_t>(tile.first_query)] == tile.chunks) continue;
      for (int k = tile.first_query; k < tile.first_query + tile.queries; ++k) {
        plan_.queries[static_cast<size_t>(k)].slot = plan_.slots;
        plan_.slots += tile.chunks;
        plan_.folds.push_back({k, tile.chunks});
      }
    }
    for (size_t i = 0; i < copied_.size(); ++i)
      plan_.queries[own + i].slot = plan_.queries[static_cast<size_t>(copied_[i])].slot;
  }

  const std::vector<BatchSequence>& sequences_;
  AttentionPlan plan_;
  std::vector<std::vector<bool>> shared_;  // [sequence][chunk]
  std::vector<Sharing> sharing_;
  std::vector<Tile> tiles_;
  std::vector<int> first_query_;  // [sequence]
  std::vector<int> copied_;       // [copy]: the query it is one of
};

}  // namespace

AttentionPlan plan_attention(const Batch& batch, int group, int window, int kv_heads, int threads) {
  return Planner(batch, group, window).plan(kv_heads, threads);
}

}  // namespace pyllm::cpu
