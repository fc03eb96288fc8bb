// Text from files nobody vouches for: is it UTF-8, and how to show it in an error.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pyllm {

// Bytes of the well-formed UTF-8 character at the start of `text`; 0 when there is none.
size_t utf8_length(std::string_view text);

// Non-empty, well-formed UTF-8 without control characters: what a name may be.
bool is_name(std::string_view text);

// `text` for an error message: what is not printable as \xNN, and cut after `limit` bytes.
std::string printable(std::string_view text, size_t limit = 80);

}  // namespace pyllm
