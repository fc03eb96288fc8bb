// How the attention of a step is cut into pieces of work: which queries go together over which blocks. Where
// the cuts lie never changes a result, for a chunk of positions is computed from scratch and chunks are folded
// in order.
#pragma once

#include <cstdint>
#include <vector>

#include "core/batch.h"

namespace pyllm::cpu {

// One query vector, and what it sees.
struct AttentionQuery {
  int row = 0;   // of the batch
  int head = 0;  // of the group that shares a KV head
  int first = 0, position = 0;
  int first_chunk = 0;  // of its tile
  int64_t slot = -1;    // where the result of first_chunk goes, the next chunks' behind it; -1: folded at once
};

// Queries over consecutive chunks of the same blocks: of one sequence, or of several that share these blocks.
struct AttentionPiece {
  int first_query = 0, queries = 0;  // of AttentionPlan::queries
  const int32_t* blocks = nullptr;   // the block table
  int first_chunk = 0, chunks = 0;
};

// A query whose chunks lie in slots.
struct AttentionFold {
  int query = 0, chunks = 0;
};

// One KV head's; it holds for all of them, in every layer.
struct AttentionPlan {
  int group = 0, window = 0;  // what it was made for
  std::vector<AttentionQuery> queries;
  std::vector<AttentionPiece> pieces;  // the most work first
  std::vector<AttentionFold> folds;
  int64_t slots = 0;
};

// group: heads that share a KV head. window: positions that a token sees, 0 for all. The batch must live as
// long as the plan.
AttentionPlan plan_attention(const Batch& batch, int group, int window, int kv_heads, int threads);

}  // namespace pyllm::cpu
