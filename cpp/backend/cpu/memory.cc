#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace pyllm::cpu {

Memory::Memory(int64_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* p =
      mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) fail("out of memory: the system refused ", bytes, " bytes");
#ifdef MADV_HUGEPAGE
  madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  data_ = static_cast<std::byte*>(p);
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void* Arena::take(int64_t bytes) {
  constexpr int64_t kFirstChunk = 4 << 20;
  bytes = (bytes + 63) / 64 * 64;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const int64_t last = chunks_.empty() ? kFirstChunk / 2 : chunks_.back().size();
    chunks_.emplace_back(std::max(bytes, 2 * last));
  }
  std::byte* p = chunks_[chunk_].data() + used_;
  used_ += bytes;
  return p;
}

}  // namespace pyllm::cpu
