// Penalties on repetition: which tokens a sequence has, how often, and what would repeat its own past.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/sampling_params.h"

namespace pyllm {

// How often each token of a sequence's last tokens occurs in its answer; prompt tokens have an entry of 0.
class TokenCounts {
 public:
  // `generated` only grows from call to call (a shorter one is counted afresh). last_n: -1 for all.
  void update(std::span<const int32_t> prompt, std::span<const int32_t> generated, int64_t last_n);
  const std::unordered_map<int32_t, int32_t>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, int32_t> counts_;
  size_t counted_ = 0;  // generated tokens in counts_
  bool started_ = false;
};

// DRY ("don't repeat yourself"): a token that would lengthen a repeat of `length` tokens, with length >=
// dry_allowed_length, loses dry_multiplier * dry_base ^ (length - dry_allowed_length).
// A repeat is a stretch of the past equal to the newest tokens, back to the last sequence breaker.
class Dry {
 public:
  explicit Dry(const SamplingParams& params);
  bool on() const { return multiplier_ > 0.0f; }

  // (token, penalty), each token once.
  const std::vector<std::pair<int32_t, float>>& penalties(std::span<const int32_t> prompt,
                                                          std::span<const int32_t> generated);

 private:
  // How many of the newest tokens come after the last sequence breaker.
  int64_t reach() const;

  float multiplier_, base_;
  int64_t allowed_length_, last_n_;
  std::unordered_set<int32_t> single_breakers_;
  std::vector<std::vector<int32_t>> long_breakers_;
  std::vector<int32_t> newest_first_;                 // [context]
  std::vector<int32_t> match_;                        // [context]
  std::vector<std::pair<int32_t, int32_t>> repeats_;  // (token, length)
  std::vector<std::pair<int32_t, float>> penalties_;
};

}  // namespace pyllm
