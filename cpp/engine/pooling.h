// One vector for a whole text, from the hidden states of its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pyllm {

enum class Pooling {
  Last,  // the last token's state
  Mean,  // the mean over all tokens
};

Pooling pooling_named(std::string_view name);  // "last" or "mean"; throws Error for anything else

// Takes the states that count, one by one in the order of the text: so no chunking changes a bit.
class Pool {
 public:
  explicit Pool(int64_t dim) : sum_(static_cast<size_t>(dim)) {}

  void add(std::span<const float> state);  // [dim]
  // Their mean, scaled to length 1. Throws Error where it has no direction: not finite, or zero.
  std::vector<float> direction() const;

 private:
  std::vector<double> sum_;  // [dim]
};

}  // namespace pyllm
