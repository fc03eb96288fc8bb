#include "text/special_tokens.h"

#include <algorithm>
#include <map>
#include <queue>

namespace pyllm::text {
namespace {

constexpr uint32_t none = UINT32_MAX;

bool white_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Where runs of trusted text end, by where they start.
std::map<size_t, size_t> trusted_runs(std::span<const Segment> segments) {
  std::map<size_t, size_t> runs;
  size_t at = 0;
  for (const Segment& segment : segments) {
    const size_t end = at + segment.text.size();
    if (segment.trusted) {
      if (!runs.empty() && runs.rbegin()->second == at)
        runs.rbegin()->second = end;
      else
        runs[at] = end;
    }
    at = end;
  }
  return runs;
}

// The end of the trusted run that holds `at`; `at` itself when none does.
size_t trusted_end(const std::map<size_t, size_t>& runs, size_t at) {
  const auto next = runs.upper_bound(at);
  return next == runs.begin() ? at : std::max(at, std::prev(next)->second);
}

}  // namespace

SpecialTokens::SpecialTokens(std::vector<SpecialToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const SpecialToken& token) { return token.text.empty(); });
  std::sort(tokens_.begin(), tokens_.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  uint32_t at = 0;
  for (int byte = 0; byte <= 256; ++byte) {
    while (at < tokens_.size() && static_cast<unsigned char>(tokens_[at].text[0]) < byte) ++at;
    first_[byte] = at;
  }
}

SpecialTokens::Match SpecialTokens::longest(std::string_view text, size_t start, size_t end,
                                            size_t trusted_end) const {
  Match best{start, start, none};
  if (start >= end) return best;
  const auto byte = static_cast<unsigned char>(text[start]);
  uint32_t low = first_[byte], high = first_[byte + 1];
  // Narrow the sorted range byte by byte: the tokens left in it share text[start, start + depth).
  for (size_t depth = 1; low < high; ++depth) {
    for (; low < high && tokens_[low].text.size() == depth; ++low)
      if (!tokens_[low].control || start + depth <= trusted_end) best = {start, start + depth, low};
    if (start + depth >= end) break;
    const auto next = static_cast<unsigned char>(text[start + depth]);
    const auto at = [depth](const SpecialToken& token) {
      return static_cast<unsigned char>(token.text[depth]);
    };
    const auto begin = tokens_.begin();
    low = std::lower_bound(begin + low, begin + high, next,
                           [&](const SpecialToken& token, unsigned char c) { return at(token) < c; }) -
          begin;
    high = std::upper_bound(begin + low, begin + high, next,
                            [&](unsigned char c, const SpecialToken& token) { return c < at(token); }) -
           begin;
  }
  return best;
}

std::vector<Fragment> SpecialTokens::split(std::string_view text, std::span<const Segment> segments) const {
  const auto runs = trusted_runs(segments);
  // One candidate per place, its longest; where that is taken, the next shorter one follows.
  const auto later = [this](const Match& a, const Match& b) {
    if (a.end - a.start != b.end - b.start) return a.end - a.start < b.end - b.start;
    const uint32_t left = tokens_[a.index].id, right = tokens_[b.index].id;
    return left != right ? left > right : a.start > b.start;
  };
  std::vector<Match> found;
  for (size_t start = 0; start < text.size(); ++start) {
    const auto byte = static_cast<unsigned char>(text[start]);
    if (first_[byte] == first_[byte + 1]) continue;
    const Match match = longest(text, start, text.size(), trusted_end(runs, start));
    if (match.index != none) found.push_back(match);
  }
  std::priority_queue<Match, std::vector<Match>, decltype(later)> queue(later, std::move(found));

  // What is claimed, by start; a token that strips claims its white space too.
  struct Claim {
    size_t end, token_start, token_end;
    int64_t token;
  };
  std::map<size_t, Claim> claims;
  while (!queue.empty()) {
    const Match match = queue.top();
    queue.pop();
    const auto next = claims.lower_bound(match.start);
    const size_t after = next == claims.end() ? text.size() : next->first;
    const size_t before = next == claims.begin() ? 0 : std::prev(next)->second.end;
    if (before > match.start || (next != claims.end() && next->first == match.start)) continue;
    if (after < match.end) {
      const Match shorter = longest(text, match.start, after, trusted_end(runs, match.start));
      if (shorter.index != none) queue.push(shorter);
      continue;
    }
    const SpecialToken& token = tokens_[match.index];
    size_t start = match.start, end = match.end;
    if (token.strip_left)
      while (start > before && white_space(text[start - 1])) --start;
    if (token.strip_right)
      while (end < after && white_space(text[end])) ++end;
    claims[start] = {end, match.start, match.end, token.id};
  }

  std::vector<Fragment> fragments;
  size_t at = 0;
  for (const auto& [start, claim] : claims) {
    if (start > at) fragments.push_back({at, start, -1});
    fragments.push_back({claim.token_start, claim.token_end, claim.token});
    at = claim.end;
  }
  if (at < text.size()) fragments.push_back({at, text.size(), -1});
  return fragments;
}

}  // namespace pyllm::text
