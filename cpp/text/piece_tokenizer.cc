#include "text/piece_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace pyllm::text {
namespace {

size_t character_bytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

constexpr std::string_view space = "\u2581";

// Where the next word begins: at a space that follows something else. text.size() when there is none.
size_t next_word(std::string_view text, size_t from) {
  for (size_t at = text.find(space, from); at != std::string_view::npos; at = text.find(space, at + 1))
    if (at > from && text.substr(at - std::min(at, space.size()), space.size()) != space) return at;
  return text.size();
}

// A line of a merge list, cut at its separator: "left right". `line` is its place, for the Error if there is
// none.
std::pair<std::string_view, std::string_view> split_merge(std::string_view merge, size_t line) {
  const size_t cut = merge.find(' ', 1);  // the first token may itself begin with a space
  if (cut == std::string_view::npos || cut + 1 == merge.size())
    fail("tokenizer.ggml.merges[", line, "]: expected two tokens with a space between, found '", merge, "'");
  return {merge.substr(0, cut), merge.substr(cut + 1)};
}

}  // namespace

void PieceTokenizer::keep(std::span<const std::string_view> tokens) {
  size_t total = 0;
  for (const std::string_view token : tokens) total += token.size();
  bytes_.reserve(total);
  tokens_.reserve(tokens.size());
  for (const std::string_view token : tokens) {
    tokens_.emplace_back(bytes_.data() + bytes_.size(), token.size());
    bytes_.append(token);
  }
  index_ = std::make_unique<TextIndex>(tokens_);
  word_by_word_ = std::all_of(tokens_.begin(), tokens_.end(),
                              [](std::string_view token) { return next_word(token, 0) == token.size(); });
}

PieceTokenizer::PieceTokenizer(std::span<const std::string_view> tokens, std::span<const float> scores,
                               std::span<const uint8_t> usable, const Fallback& fallback)
    : fallback_(fallback), ranks_(tokens.size(), none) {
  if (scores.size() != tokens.size() || usable.size() != tokens.size())
    fail("tokenizer.ggml.scores: expected ", tokens.size(), " numbers, one per token, found ", scores.size());
  keep(tokens);
  // A score that is not a number sorts last, so that the order stays a strict one.
  const auto score = [&](uint32_t id) { return std::isnan(scores[id]) ? -HUGE_VALF : scores[id]; };
  std::vector<uint32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0u);
  if (!std::is_sorted(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return score(a) > score(b); }))
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return score(a) > score(b); });
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && score(order[i]) != score(order[i - 1]))
      rank = static_cast<uint32_t>(i);  // equal ones share a rank
    if (usable[order[i]]) ranks_[order[i]] = rank;
  }
}

PieceTokenizer::PieceTokenizer(std::span<const std::string_view> tokens,
                               std::span<const std::string_view> merges, std::span<const uint8_t> usable,
                               const Fallback& fallback)
    : fallback_(fallback), ranks_(tokens.size(), none), pairs_(std::make_unique<PairIndex>(merges.size())) {
  if (usable.size() != tokens.size()) fail("usable: expected ", tokens.size(), " flags, found ", usable.size());
  keep(tokens);
  for (size_t i = 0; i < tokens.size(); ++i)
    if (usable[i]) ranks_[i] = 0;
  by_merge_.reserve(merges.size());
  std::string both;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view line = merges[i];
    const auto [left, right] = split_merge(line, i);
    both.assign(left).append(right);
    const auto id = [&](std::string_view text) {
      const uint32_t found = (*index_)[text];
      if (found == none)
        fail("tokenizer.ggml.merges[", i, "] '", line, "': '", text, "' is not in tokenizer.ggml.tokens");
      return found;
    };
    const uint32_t first = id(left), second = id(right), product = id(both);
    if (ranks_[first] == none || ranks_[second] == none || ranks_[product] == none) continue;
    const auto at = static_cast<uint32_t>(by_merge_.size());
    if (pairs_->insert(first, second, at)) by_merge_.push_back({at, product});
  }
}

uint32_t PieceTokenizer::find(std::string_view text) const {
  const uint32_t id = (*index_)[text];
  return id != none && ranks_[id] == none ? none : id;
}

PieceTokenizer::Product PieceTokenizer::product(uint32_t left, uint32_t right, std::string_view both) const {
  if (pairs_) {
    if (left == none || right == none) return {};
    const uint32_t at = (*pairs_)(left, right);
    return at == none ? Product{} : Product{by_merge_[at][0], by_merge_[at][1]};
  }
  const uint32_t id = find(both);
  return id == none ? Product{} : Product{ranks_[id], id};
}

// A chain of pieces, and a queue of the neighbours that could merge.
class PieceTokenizer::Run {
 public:
  Run(const PieceTokenizer& tokenizer, std::string_view text) : tokenizer_(tokenizer), text_(text) {
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min(character_bytes(text[at]), text.size() - at);
      const auto i = static_cast<int64_t>(pieces_.size());
      pieces_.push_back({at, n, tokenizer.find(text.substr(at, n)), i - 1, i + 1});
      at += n;
    }
    pieces_.back().next = -1;
    for (size_t i = 1; i < pieces_.size(); ++i) push(i - 1, i);
  }

  void merge() {
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end(), later);
      const Candidate c = queue_.back();
      queue_.pop_back();
      Piece &left = pieces_[c.left], &right = pieces_[c.right];
      if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != c.bytes) continue;
      left.bytes += right.bytes;
      left.token = c.product.token;
      left.next = right.next;
      right.bytes = 0;
      if (right.next >= 0) pieces_[right.next].previous = c.left;
      if (left.previous >= 0) push(left.previous, c.left);
      if (left.next >= 0) push(c.left, left.next);
    }
  }

  void append_to(std::vector<uint32_t>& out) const {
    const Fallback& fallback = tokenizer_.fallback_;
    for (int64_t i = 0; i >= 0; i = pieces_[i].next) {
      const Piece& piece = pieces_[i];
      if (piece.token != none) {
        out.push_back(piece.token);
        continue;
      }
      const std::string_view bytes = text_.substr(piece.start, piece.bytes);
      const auto token = [&](char c) { return fallback.bytes[static_cast<unsigned char>(c)]; };
      if (std::all_of(bytes.begin(), bytes.end(), [&](char c) { return token(c) != none; }))
        for (const char c : bytes) out.push_back(token(c));
      else if (fallback.unknown != none)
        out.push_back(fallback.unknown);
    }
  }

 private:
  struct Piece {
    size_t start, bytes;  // no bytes: it went into its left neighbour
    uint32_t token;
    int64_t previous, next;
  };
  struct Candidate {
    Product product;
    int64_t left, right;
    size_t bytes;  // of both when they met: differs once one of them has grown
  };

  static bool later(const Candidate& a, const Candidate& b) {
    return a.product.rank != b.product.rank ? a.product.rank > b.product.rank : a.left > b.left;
  }

  void push(int64_t left, int64_t right) {
    const Piece &a = pieces_[left], &b = pieces_[right];
    const size_t bytes = a.bytes + b.bytes;
    const Product product = tokenizer_.product(a.token, b.token, text_.substr(a.start, bytes));
    if (product.token == none) return;
    queue_.push_back({product, left, right, bytes});
    std::push_heap(queue_.begin(), queue_.end(), later);
  }

  const PieceTokenizer& tokenizer_;
  std::string_view text_;
  std::vector<Piece> pieces_;
  std::vector<Candidate> queue_;
};

void PieceTokenizer::encode_run(std::string_view text, std::vector<uint32_t>& out) const {
  if (text.empty()) return;
  Run run(*this, text);
  run.merge();
  run.append_to(out);
}

// Words that cannot merge with each other are merged one by one, in little memory.
void PieceTokenizer::encode_spaced(std::string_view text, std::vector<uint32_t>& out) const {
  for (size_t at = 0; at < text.size();) {
    const size_t end = word_by_word_ ? next_word(text, at) : text.size();
    encode_run(text.substr(at, end - at), out);
    at = end;
  }
}

std::vector<uint32_t> PieceTokenizer::encode_words(std::span<const std::string_view> words, bool whole) const {
  std::vector<uint32_t> out;
  for (const std::string_view word : words) {
    const uint32_t token = whole ? find(word) : none;
    if (token != none)
      out.push_back(token);
    else
      encode_run(word, out);
  }
  return out;
}

std::vector<uint32_t> PieceTokenizer::encode(std::string_view text) const {
  std::vector<uint32_t> out;
  if (!pairs_) {
    encode_spaced(text, out);
    return out;
  }
  for (size_t at = 0; at < text.size();) {
    const bool newlines = text[at] == '\n';
    const size_t end = std::min(newlines ? text.find_first_not_of('\n', at) : text.find('\n', at), text.size());
    const std::string_view run = text.substr(at, end - at);
    const uint32_t whole = newlines ? find(run) : none;
    if (whole != none)
      out.push_back(whole);
    else
      encode_spaced(run, out);
    at = end;
  }
  return out;
}

}  // namespace pyllm::text
