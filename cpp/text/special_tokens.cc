#include "text/special_tokens.h"

#include <algorithm>
#include <map>

namespace pyllm::text {
namespace {

bool white_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

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

std::vector<SpecialTokens::Match> SpecialTokens::find(std::string_view text,
                                                      std::span<const Segment> segments) const {
  std::vector<Match> matches;
  size_t start = 0, segment = 0, segment_end = segments.empty() ? 0 : segments[0].text.size();
  size_t trusted_end = 0;  // of the trusted run that holds `start`
  for (; start < text.size(); ++start) {
    while (start >= segment_end) segment_end += segments[++segment].text.size();
    if (!segments[segment].trusted) {
      trusted_end = start;
    } else if (trusted_end <= start) {
      trusted_end = segment_end;
      for (size_t i = segment + 1; i < segments.size() && segments[i].trusted; ++i)
        trusted_end += segments[i].text.size();
    }
    const auto byte = static_cast<unsigned char>(text[start]);
    uint32_t low = first_[byte], high = first_[byte + 1];
    // Narrow the sorted range byte by byte: the tokens left in it share text[start, start + depth).
    for (size_t depth = 1; low < high; ++depth) {
      while (low < high && tokens_[low].text.size() == depth) {
        if (!tokens_[low].control || start + depth <= trusted_end)
          matches.push_back({start, start + depth, low});
        ++low;
      }
      if (start + depth >= text.size()) break;
      const char next = text[start + depth];
      const auto begin = tokens_.begin() + low, end = tokens_.begin() + high;
      const auto unsigned_less = [depth](const SpecialToken& t, char c) {
        return static_cast<unsigned char>(t.text[depth]) < static_cast<unsigned char>(c);
      };
      const auto unsigned_greater = [depth](char c, const SpecialToken& t) {
        return static_cast<unsigned char>(c) < static_cast<unsigned char>(t.text[depth]);
      };
      low = static_cast<uint32_t>(std::lower_bound(begin, end, next, unsigned_less) - tokens_.begin());
      high = static_cast<uint32_t>(std::upper_bound(begin, end, next, unsigned_greater) - tokens_.begin());
    }
  }
  return matches;
}

std::vector<Fragment> SpecialTokens::split(std::string_view text, std::span<const Segment> segments) const {
  std::vector<Match> matches = find(text, segments);
  std::sort(matches.begin(), matches.end(), [&](const Match& a, const Match& b) {
    if (a.end - a.start != b.end - b.start) return a.end - a.start > b.end - b.start;
    return tokens_[a.index].id != tokens_[b.index].id ? tokens_[a.index].id < tokens_[b.index].id
                                                      : a.start < b.start;
  });
  // Claimed ranges by start; a token that strips claims its white space too (token -1: dropped text).
  struct Claim {
    size_t end, token_start, token_end;
    int64_t token;
  };
  std::map<size_t, Claim> claims;
  for (const Match& match : matches) {
    const auto next = claims.lower_bound(match.start);
    if (next != claims.end() && next->first < match.end) continue;
    const size_t after = next == claims.end() ? text.size() : next->first;
    const size_t before = next == claims.begin() ? 0 : std::prev(next)->second.end;
    if (before > match.start) continue;
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
