// Reads a header front to back; every step is checked against what the file still has.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

namespace pyllm::gguf {

// Headers of real models take up to 20 MB (half a million merges); more than this is an attack on time and
// memory.
inline constexpr uint64_t kMaxHeader = uint64_t{256} << 20;

class Cursor {
 public:
  // `name` is for errors. `mapped`: pages already read may be given back, the file still has them.
  Cursor(std::string_view name, std::span<const std::byte> file, bool mapped)
      : name_(name), file_(file), mapped_(mapped) {}

  uint64_t position() const { return position_; }
  std::string_view name() const { return name_; }
  uint64_t left() const { return std::min<uint64_t>(file_.size(), kMaxHeader) - position_; }

  // The next `count` bytes; `what` names the field in the error when the file has fewer.
  template <typename... What>
  std::span<const std::byte> take(uint64_t count, const What&... what) {
    if (count > left()) [[unlikely]]
      too_short(count, message(what...));
    const auto bytes = file_.subspan(position_, count);
    position_ += count;
    if (mapped_ && position_ - kept_from_ > kKeep) [[unlikely]]
      give_back();
    return bytes;
  }

  template <typename T, typename... What>
  T read(const What&... what) {
    T value;
    memcpy(&value, take(sizeof(T), what...).data(), sizeof(T));
    return value;
  }

  // An 8-byte length and that many bytes.
  template <typename... What>
  std::string_view string(const What&... what) {
    const auto length = read<uint64_t>(what..., " length");
    const auto bytes = take(length, what...);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  static constexpr uint64_t kKeep = uint64_t{16} << 20;

  [[noreturn]] void too_short(uint64_t count, const std::string& what) const {
    if (position_ + left() < file_.size())
      fail(name_, ": ", what, ": expected the header to end within ", kMaxHeader, " bytes, found ", count,
           " more bytes needed at offset ", position_);
    fail(name_, ": ", what, ": expected ", count, " bytes at offset ", position_, ", found ", left(),
         " before the end of the file; it is truncated or damaged");
  }

  // Bounds the resident memory while a hostile header is walked.
  void give_back() {
    const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t end = position_ / page * page;
    madvise(const_cast<std::byte*>(file_.data()) + kept_from_, end - kept_from_, MADV_DONTNEED);
    kept_from_ = end;
  }

  std::string_view name_;
  std::span<const std::byte> file_;
  bool mapped_;
  uint64_t position_ = 0;
  uint64_t kept_from_ = 0;  // a multiple of the page size
};

}  // namespace pyllm::gguf
