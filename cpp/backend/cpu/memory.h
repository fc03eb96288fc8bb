// Memory of the CPU backend: large pieces from the system, and an arena for what lives as long as a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pyllm::cpu {

// Anonymous memory straight from the system: zero, committed when touched, in huge pages where they are
// offered.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes);  // throws Error when the system refuses
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// A stack of 64-byte aligned pieces. What was taken stays in place until it is released; memory is kept for
// reuse.
class Arena {
 public:
  void* take(int64_t bytes);
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(take(count * static_cast<int64_t>(sizeof(T))));
  }
  int64_t mark() const { return static_cast<int64_t>(chunk_) << 48 | used_; }
  void release(int64_t mark) {
    chunk_ = static_cast<size_t>(mark >> 48);
    used_ = mark & ((int64_t{1} << 48) - 1);
  }

 private:
  std::vector<Memory> chunks_;
  size_t chunk_ = 0;
  int64_t used_ = 0;  // of chunks_[chunk_]
};

}  // namespace pyllm::cpu
