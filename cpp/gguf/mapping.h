// A file's bytes in memory, read-only. The kernel reads pages when they are touched, so opening costs
// nothing; a file that another process shrinks meanwhile ends this one with SIGBUS, as with every mapping.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace pyllm::gguf {

class Mapping {
 public:
  // Throws Error: missing, unreadable, not a regular file, empty.
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // `part` will not be needed soon: its pages stop counting as ours, and are read again when touched.
  void forget(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace pyllm::gguf
