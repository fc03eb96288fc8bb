// A KV cache and a "model" that can only be right when every block table, copy and reuse is right: a row's
// value is a hash of the whole history of its sequence, read back through the block table.
#pragma once

#include <cstdint>
#include <vector>

#include "core/batch.h"

namespace pyllm::fake {

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t h = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xbf58476d1ce4e5b9u;
  return h ^ (h >> 31);
}

// What the cache keeps for a token, and what it computes from the kept values of positions 0, 1, ...
inline uint64_t key_value(int32_t token, int position) { return mix(token + 1, position + 1); }
inline uint64_t attend(uint64_t so_far, uint64_t kept) { return mix(so_far, kept); }

class Kv {
 public:
  explicit Kv(int blocks) : slots_(static_cast<size_t>(blocks) * kBlockTokens, 0) {}

  void copy_blocks(const Batch& batch) {
    for (const auto& [from, to] : batch.copies)
      for (int i = 0; i < kBlockTokens; ++i) at(to, i) = at(from, i);
  }

  // What a block keeps, and ought to keep, of tokens that begin at `position`.
  std::vector<uint64_t> read(int32_t block) { return {&at(block, 0), &at(block, 0) + kBlockTokens}; }
  void write(int32_t block, const std::vector<uint64_t>& kept) {
    for (int i = 0; i < kBlockTokens; ++i) at(block, i) = kept[i];
  }
  static std::vector<uint64_t> kept(const int32_t* tokens, int position) {
    std::vector<uint64_t> values;
    for (int i = 0; i < kBlockTokens; ++i) values.push_back(key_value(tokens[i], position + i));
    return values;
  }

  struct Output {
    std::vector<uint64_t> logits;  // [sampled_rows]
    std::vector<uint64_t> states;  // [state_rows]
  };

  // The value of every row that is wanted.
  Output forward(const Batch& batch) {
    copy_blocks(batch);
    for (const BatchSequence& s : batch.sequences)
      for (int i = 0; i < s.rows; ++i)
        slot(s, s.past + i) = key_value(batch.tokens[s.first_row + i], s.past + i);
    return {values(batch, batch.sampled_rows), values(batch, batch.state_rows)};
  }

  std::vector<uint64_t> values(const Batch& batch, const std::vector<int32_t>& rows) {
    std::vector<uint64_t> values;
    size_t next = 0;
    for (const BatchSequence& s : batch.sequences) {
      uint64_t value = 0;
      int position = 0;
      for (; next < rows.size() && rows[next] < s.first_row + s.rows; ++next) {
        const int last = s.past + rows[next] - s.first_row;
        for (; position <= last; ++position) value = attend(value, slot(s, position));
        values.push_back(value);
      }
    }
    return values;
  }

  // A step that breaks off half-way: what the batch may write is lost.
  void scribble(const Batch& batch) {
    for (const auto& [from, to] : batch.copies)
      for (int i = 0; i < kBlockTokens; ++i) at(to, i) = 0xbad;
    for (const BatchSequence& s : batch.sequences)
      for (int i = 0; i < s.rows; ++i) slot(s, s.past + i) = 0xbad;
  }

 private:
  uint64_t& at(int32_t block, int i) { return slots_[static_cast<size_t>(block) * kBlockTokens + i]; }
  uint64_t& slot(const BatchSequence& s, int position) {
    return at(s.blocks[position / kBlockTokens], position % kBlockTokens);
  }

  std::vector<uint64_t> slots_;  // [block, kBlockTokens]
};

}  // namespace pyllm::fake
