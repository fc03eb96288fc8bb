#include "core/utf8.h"

#include <cstdint>

namespace pyllm {
namespace {

bool is_control(std::string_view character) {
  const auto first = static_cast<uint8_t>(character[0]);
  // C0 and DEL, then C1 (U+0080 to U+009F), which terminals obey too.
  return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<uint8_t>(character[1]) < 0xa0);
}

}  // namespace

size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f)) return 0;
  if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) return 0;
  return length;
}

bool is_name(std::string_view text) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0 || is_control(text.substr(0, length))) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view text, size_t limit) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "...";
    const size_t length = utf8_length(text);
    const bool escape = length == 0 || is_control(text.substr(0, length));
    const std::string_view bytes = text.substr(0, length == 0 ? 1 : length);
    for (const char c : bytes) {
      const auto byte = static_cast<uint8_t>(c);
      if (escape)
        out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      else
        out += c;
    }
    text.remove_prefix(bytes.size());
  }
  return out;
}

}  // namespace pyllm
