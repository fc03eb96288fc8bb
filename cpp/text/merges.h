// Byte-pair merges for a vocabulary, reduced to those that can ever happen.
//
// A token is only ever built by one pair: whatever surrounds it, the pieces inside its borders merge exactly as
// they do when the token's text stands alone. So the last merge of that lone text is the only one worth
// keeping, and a list of 515,000 merges (Gemma) shrinks to one per token without changing any result.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pyllm::text {

// Token ids of a pair and of what it becomes.
struct Merge {
  uint32_t left, right, product;
};

// SentencePiece vocabularies: the pair whose product has the highest score merges first, so the products in
// order of falling score (then rising id) are the merge list. `usable` [token]: 0 leaves a token out.
// All spans: [token]. Text is UTF-8.
std::vector<Merge> merges_from_scores(std::span<const std::string_view> tokens, std::span<const float> scores,
                                      std::span<const uint8_t> usable);

// Merge lists as GGUF stores them: "left right", in order of priority. Throws Error when a line has no
// separator or names a text that is no token.
std::vector<Merge> merges_from_lines(std::span<const std::string_view> tokens,
                                     std::span<const std::string_view> lines);

}  // namespace pyllm::text
