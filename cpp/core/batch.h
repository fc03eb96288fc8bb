// One step's work, as the scheduler plans it and every op takes it: a flat batch of tokens and, per
// sequence, where its tokens lie in the batch and where its keys and values lie in the block pool.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pyllm {

inline constexpr int kBlockTokens = 16;  // tokens in a KV block

struct BatchSequence {
  int first_row = 0;            // of this sequence's tokens in the batch
  int rows = 0;                 // tokens computed in this step
  int past = 0;                 // tokens computed before: the first row's position
  std::vector<int32_t> blocks;  // block table; block i holds positions [16 i, 16 i + 16)
};

struct Batch {
  std::vector<int32_t> tokens;  // [row]
  std::vector<BatchSequence> sequences;
  std::vector<int32_t> sampled_rows;  // rows whose logits are wanted, ascending
  std::vector<int32_t> state_rows;    // rows whose final hidden states are wanted, ascending
  std::vector<std::pair<int32_t, int32_t>>
      copies;  // (from, to) blocks to copy, in this order, before anything is written

  bool empty() const { return tokens.empty(); }
};

}  // namespace pyllm
