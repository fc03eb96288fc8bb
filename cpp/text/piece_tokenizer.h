// Text is merged pair by pair, characters first, into the tokens of a vocabulary. Source: SentencePiece's BPE
// model.
//
// Vocabularies of SentencePiece's kind take text whole, and what has no token falls back to bytes; GPT-2's kind
// take words that were cut before, in which every byte is a character.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/flat_map.h"

namespace pyllm::text {

// What characters without a token become.
struct Fallback {
  std::array<uint32_t, 256> bytes;  // the tokens <0x00> to <0xFF>, `none` where there is none
  uint32_t unknown = none;          // for a character whose bytes have no tokens; none: it is left out
};

// Immutable once built: any number of threads may encode.
class PieceTokenizer {
 public:
  // The pair whose product has the highest score merges first, then the leftmost. `usable` [token]: 0 keeps a
  // token from being merged into: control tokens must not come out of text. Throws Error on wrong lengths.
  PieceTokenizer(std::span<const std::string_view> tokens, std::span<const float> scores,
                 std::span<const uint8_t> usable, const Fallback& fallback);

  // Merges listed first to last as "left right"; those that name a token that is not usable are left out.
  // Throws Error when a line has no separator or names what is no token.
  PieceTokenizer(std::span<const std::string_view> tokens, std::span<const std::string_view> merges,
                 std::span<const uint8_t> usable, const Fallback& fallback);

  // Token ids of UTF-8 text in which spaces are written as U+2581. With listed merges, runs of newlines are
  // kept apart, and taken whole where they are a token.
  std::vector<uint32_t> encode(std::string_view text) const;
  // Token ids of words that do not merge with each other. `whole`: one that is a token is taken as that.
  std::vector<uint32_t> encode_words(std::span<const std::string_view> words, bool whole) const;

 private:
  struct Product {
    uint32_t rank = none, token = none;
  };
  class Run;  // the merging of one text

  void keep(std::span<const std::string_view> tokens);
  uint32_t find(std::string_view text) const;
  Product product(uint32_t left, uint32_t right, std::string_view both) const;
  void encode_run(std::string_view text, std::vector<uint32_t>& out) const;
  void encode_spaced(std::string_view text, std::vector<uint32_t>& out) const;

  std::string bytes_;  // of all tokens
  std::vector<std::string_view> tokens_;
  std::unique_ptr<TextIndex> index_;
  bool word_by_word_;  // no token goes on behind a word into the next space
  Fallback fallback_;
  std::vector<uint32_t> ranks_;                    // [token] by score, or 0; `none`: not usable
  std::unique_ptr<PairIndex> pairs_;               // or by listed merges:
  std::vector<std::array<uint32_t, 2>> by_merge_;  // [merge] its rank and product
};

}  // namespace pyllm::text
