#include "engine/penalties.h"

#include <algorithm>
#include <cmath>

namespace pyllm {

void TokenCounts::update(std::span<const int32_t> prompt, std::span<const int32_t> generated, int64_t last_n) {
  if (last_n >= 0 || !started_ || generated.size() < counted_) {
    counts_.clear();
    counted_ = 0;
    started_ = true;
    if (last_n >= 0) {
      const size_t keep = static_cast<size_t>(last_n);
      if (generated.size() >= keep)
        prompt = {};
      else
        prompt = prompt.last(std::min(prompt.size(), keep - generated.size()));
      generated = generated.last(std::min(generated.size(), keep));
    }
    for (const int32_t token : prompt) counts_.try_emplace(token, 0);
  }
  for (; counted_ < generated.size(); ++counted_) ++counts_[generated[counted_]];
}

Dry::Dry(const SamplingParams& params)
    : multiplier_(params.dry_multiplier),
      base_(params.dry_base),
      allowed_length_(params.dry_allowed_length),
      last_n_(params.dry_penalty_last_n) {
  if (!on()) return;
  for (const std::vector<int32_t>& breaker : params.dry_sequence_breakers) {
    if (breaker.size() == 1)
      single_breakers_.insert(breaker[0]);
    else
      long_breakers_.push_back(breaker);
  }
}

int64_t Dry::reach() const {
  const int64_t size = static_cast<int64_t>(newest_first_.size());
  for (int64_t i = 0; i < size; ++i) {
    if (single_breakers_.contains(newest_first_[i])) return i;
    for (const std::vector<int32_t>& breaker : long_breakers_) {
      const int64_t length = static_cast<int64_t>(breaker.size());
      if (i + length <= size && std::equal(breaker.rbegin(), breaker.rend(), newest_first_.begin() + i))
        return i;
    }
  }
  return size;
}

const std::vector<std::pair<int32_t, float>>& Dry::penalties(std::span<const int32_t> prompt,
                                                             std::span<const int32_t> generated) {
  penalties_.clear();
  newest_first_.assign(generated.rbegin(), generated.rend());
  newest_first_.insert(newest_first_.end(), prompt.rbegin(), prompt.rend());
  if (last_n_ >= 0 && static_cast<int64_t>(newest_first_.size()) > last_n_)
    newest_first_.resize(static_cast<size_t>(last_n_));
  const int64_t size = static_cast<int64_t>(newest_first_.size());
  const int64_t longest = reach();
  if (longest < allowed_length_) return penalties_;

  // match_[i]: how many tokens from i on equal the newest ones (the Z function, linear time).
  match_.assign(static_cast<size_t>(size), 0);
  repeats_.clear();
  const std::vector<int32_t>& t = newest_first_;
  for (int64_t i = 1, left = 0, right = 0; i < size; ++i) {
    int64_t m = i < right ? std::min<int64_t>(right - i, match_[i - left]) : 0;
    while (i + m < size && t[m] == t[i + m]) ++m;
    match_[i] = static_cast<int32_t>(m);
    if (i + m > right) {
      left = i;
      right = i + m;
    }
    const int64_t length = std::min(m, longest);
    if (length >= allowed_length_ && !single_breakers_.contains(t[i - 1]))
      repeats_.emplace_back(t[i - 1], static_cast<int32_t>(length));
  }
  std::sort(repeats_.begin(), repeats_.end());
  for (size_t i = 0; i < repeats_.size(); ++i) {
    if (i + 1 < repeats_.size() && repeats_[i + 1].first == repeats_[i].first)
      continue;  // a longer one follows
    const double over = static_cast<double>(repeats_[i].second - allowed_length_);
    const double penalty = multiplier_ * std::pow(static_cast<double>(base_), over);
    penalties_.emplace_back(repeats_[i].first, static_cast<float>(std::min(penalty, 1e30)));
  }
  return penalties_;
}

}  // namespace pyllm
