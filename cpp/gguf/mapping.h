// A file's bytes in memory, read-only. The kernel reads pages when they are touched, so opening costs
// nothing; a file that another process shrinks meanwhile ends this one with SIGBUS, as with every mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace pyllm::gguf {

// What the system tells of a file when it is opened. While all of it is the same, so are the bytes: whoever
// writes to a file changes `changed_ns`, which no ordinary call can set.
struct FileIdentity {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified_ns = 0, changed_ns = 0;  // since 1970
};

class Mapping {
 public:
  // Throws Error: missing, unreadable, not a regular file, empty.
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})), identity_(other.identity_) {}
  Mapping& operator=(Mapping&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const FileIdentity& identity() const { return identity_; }
  // `part` will not be needed soon: its pages stop counting as ours, and are read again when touched.
  void forget(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
  FileIdentity identity_;
};

}  // namespace pyllm::gguf
