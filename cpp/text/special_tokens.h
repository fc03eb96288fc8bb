// Finds the tokens that are matched as whole text before anything else: control tokens such as <|im_end|>,
// where the text is trusted to name them, and user-defined tokens, everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pyllm::text {

struct SpecialToken {
  std::string text;  // UTF-8, not empty
  uint32_t id;
  bool control;              // matched only inside trusted text
  bool strip_left = false;   // swallows the white space before it
  bool strip_right = false;  // ... and behind it
};

// A run of text in the order of the source; untrusted text never becomes a control token.
struct Segment {
  std::string_view text;
  bool trusted;
};

// A piece of the source: a special token, or the bytes between two of them.
struct Fragment {
  size_t start, end;
  int64_t token;  // -1: plain text
};

class SpecialTokens {
 public:
  explicit SpecialTokens(std::vector<SpecialToken> tokens);

  // Cuts the segments, joined, into fragments. Longer tokens claim their text first, then the leftmost.
  // A control token matches only where all of its bytes come from trusted segments.
  std::vector<Fragment> split(std::string_view text, std::span<const Segment> segments) const;

 private:
  struct Match {
    size_t start, end;
    uint32_t index;  // into tokens_
  };
  // The longest match at `start` that ends at `end` or before; index `none` when there is none.
  Match longest(std::string_view text, size_t start, size_t end, size_t trusted_end) const;

  std::vector<SpecialToken> tokens_;  // by text, so that those with one prefix lie together
  uint32_t first_[257];               // tokens_[first_[b] .. first_[b + 1]) start with byte b
};

}  // namespace pyllm::text
