// Errors that a user can act on. Thrown for bad input; never for our own mistakes (those are asserts).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace pyllm {

// Becomes pyllm.errors.PyllmError in Python: one readable line (more for advice), no traceback in the CLI.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// message("blk.", 3, ": expected ", 4) == "blk.3: expected 4"
template <typename... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(message(parts...));
}

}  // namespace pyllm
