#include "text/merges.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "text/flat_map.h"

namespace pyllm::text {
namespace {

size_t character_bytes(unsigned char first) {
  return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// What a pair of neighbours would become, and how early: lower ranks merge first, then the leftmost.
struct Product {
  uint32_t rank = none, token = none;
};

// Merges one text on its own. Keeps its memory between calls.
class Merger {
 public:
  // The last merge on the way to a single token, or nothing when the text does not end as one.
  // first(text) gives a character's token or none; pair(left, right, text of both) gives a Product.
  template <typename First, typename Pair>
  std::optional<Merge> last_merge(std::string_view text, First&& first, Pair&& pair) {
    pieces_.clear();
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min(character_bytes(static_cast<unsigned char>(text[at])), text.size() - at);
      const uint32_t token = first(text.substr(at, n));
      if (token == none) return {};
      const auto index = static_cast<int>(pieces_.size());
      pieces_.push_back({at, n, token, index - 1, index + 1});
      at += n;
    }
    if (pieces_.size() < 2) return {};
    pieces_.back().next = -1;

    queue_.clear();
    for (int i = 0; i + 1 < static_cast<int>(pieces_.size()); ++i) push(text, i, i + 1, pair);
    std::optional<Merge> last;
    size_t left = pieces_.size();
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end(), later);
      const Candidate c = queue_.back();
      queue_.pop_back();
      Piece& a = pieces_[c.left];
      if (a.token != c.left_token || a.next < 0 || pieces_[a.next].token != c.right_token) continue;
      Piece& b = pieces_[a.next];
      last = Merge{a.token, b.token, c.product.token};
      a.token = c.product.token;
      a.bytes += b.bytes;
      b.token = none;
      a.next = b.next;
      if (b.next >= 0) pieces_[b.next].previous = c.left;
      --left;
      if (a.previous >= 0) push(text, a.previous, c.left, pair);
      if (a.next >= 0) push(text, c.left, a.next, pair);
    }
    return left == 1 ? last : std::nullopt;
  }

 private:
  struct Piece {
    size_t start, bytes;
    uint32_t token;  // none once it went into its left neighbour
    int previous, next;
  };
  struct Candidate {
    Product product;
    int left;
    uint32_t left_token, right_token;  // a changed neighbour makes the candidate stale
  };

  static bool later(const Candidate& a, const Candidate& b) {
    return a.product.rank != b.product.rank ? a.product.rank > b.product.rank : a.left > b.left;
  }

  template <typename Pair>
  void push(std::string_view text, int left, int right, Pair&& pair) {
    const Piece &a = pieces_[left], &b = pieces_[right];
    const Product product = pair(a.token, b.token, text.substr(a.start, a.bytes + b.bytes));
    if (product.token == none) return;
    queue_.push_back({product, left, a.token, b.token});
    std::push_heap(queue_.begin(), queue_.end(), later);
  }

  std::vector<Piece> pieces_;
  std::vector<Candidate> queue_;
};

}  // namespace

std::vector<Merge> merges_from_scores(std::span<const std::string_view> tokens, std::span<const float> scores,
                                      std::span<const uint8_t> usable) {
  if (scores.size() != tokens.size() || usable.size() != tokens.size())
    fail("tokenizer.ggml.scores: expected ", tokens.size(), " numbers, one per token, found ", scores.size());
  std::vector<uint32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0u);
  // A score that is not a number sorts last, so that the order stays a strict one.
  const auto key = [&](uint32_t id) { return scores[id] == scores[id] ? scores[id] : -HUGE_VALF; };
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return key(a) > key(b); });
  std::vector<uint32_t> rank(tokens.size());  // equal scores share a rank
  for (size_t i = 0; i < order.size(); ++i)
    rank[order[i]] =
        i > 0 && key(order[i]) == key(order[i - 1]) ? rank[order[i - 1]] : static_cast<uint32_t>(i);

  const TextIndex index(tokens);
  const auto find = [&](std::string_view text) {
    const uint32_t id = index[text];
    return id != none && usable[id] ? id : none;
  };
  const auto pair = [&](uint32_t, uint32_t, std::string_view both) -> Product {
    const uint32_t id = find(both);
    return id == none ? Product{} : Product{rank[id], id};
  };
  Merger merger;
  std::vector<Merge> merges;
  merges.reserve(tokens.size());
  for (uint32_t id : order) {
    if (!usable[id]) continue;
    if (const auto merge = merger.last_merge(tokens[id], find, pair)) merges.push_back(*merge);
  }
  return merges;
}

std::vector<Merge> merges_from_lines(std::span<const std::string_view> tokens,
                                     std::span<const std::string_view> lines) {
  const TextIndex index(tokens);
  PairIndex pairs(lines.size());
  std::vector<Merge> all;
  all.reserve(lines.size());
  std::vector<uint8_t> ways(tokens.size());  // how many pairs make a token: 0, 1, many (2)
  std::string both;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos)
      fail("tokenizer.ggml.merges[", i, "]: expected two tokens with a space between, found '", line, "'");
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    both.assign(left).append(right);
    const Merge merge{index[left], index[right], index[both]};
    for (const auto& [id, text] :
         {std::pair{merge.left, left}, {merge.right, right}, {merge.product, std::string_view(both)}})
      if (id == none)
        fail("tokenizer.ggml.merges[", i, "] '", line, "': '", text, "' is not in tokenizer.ggml.tokens");
    if (!pairs.insert(merge.left, merge.right, static_cast<uint32_t>(all.size()))) continue;
    all.push_back(merge);
    ways[merge.product] = ways[merge.product] ? 2 : 1;
  }

  const auto first = [&](std::string_view text) { return index[text]; };
  const auto pair = [&](uint32_t left, uint32_t right, std::string_view) -> Product {
    const uint32_t at = pairs(left, right);
    return at == none ? Product{} : Product{at, all[at].product};
  };
  Merger merger;
  std::vector<uint8_t> keep(all.size());
  for (uint32_t at = 0; at < all.size(); ++at) {
    const uint32_t product = all[at].product;
    if (ways[product] == 1) keep[at] = 1;
    if (ways[product] != 2) continue;
    ways[product] = 0;  // once is enough
    if (const auto merge = merger.last_merge(tokens[product], first, pair))
      keep[pairs(merge->left, merge->right)] = 1;
  }
  std::vector<Merge> merges;
  for (size_t at = 0; at < all.size(); ++at)
    if (keep[at]) merges.push_back(all[at]);
  return merges;
}

}  // namespace pyllm::text
