#include "backend/cpu/packed_weights.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace pyllm::cpu {

namespace {

// Where the page cache holds a file in pieces of this size, mapping it at such borders lets the processor
// address it in pieces of this size too.
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

PackedWeights::PackedWeights(int fd, std::map<std::string, Place, std::less<>> places)
    : places_(std::move(places)) {
  struct stat status;
  if (fstat(fd, &status) != 0) fail("packed weights: ", std::generic_category().message(errno));
  const int64_t size = status.st_size;
  if (!S_ISREG(status.st_mode) || size <= 0) fail("packed weights: expected a file that is not empty");
  for (const auto& [name, place] : places_)
    if (place.offset < 0 || place.bytes <= 0 || place.offset % kAlignment != 0 || place.offset > size ||
        place.bytes > size - place.offset)
      fail("packed weights: ", name, ": bytes ", place.offset, " and the ", place.bytes,
           " after it do not lie in the file of ", size);
  reserved_bytes_ = static_cast<size_t>(size) + kHugePage;
  void* start = mmap(nullptr, reserved_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) fail("out of memory: the system refused ", reserved_bytes_, " bytes of addresses");
  reserved_ = static_cast<std::byte*>(start);
  const size_t into = (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
  void* mapped = mmap(reserved_ + into, static_cast<size_t>(size), PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    munmap(reserved_, reserved_bytes_);
    fail("packed weights: cannot be mapped: ", std::generic_category().message(error));
  }
  file_ = static_cast<const std::byte*>(mapped);
#ifdef MADV_HUGEPAGE
  madvise(mapped, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  madvise(mapped, static_cast<size_t>(size), MADV_WILLNEED);
}

PackedWeights::~PackedWeights() {
  if (reserved_ != nullptr) munmap(reserved_, reserved_bytes_);
}

PackedWeights::Room PackedWeights::take(std::string_view name, int64_t bytes) {
  if (cancelled_.load(std::memory_order_relaxed)) fail("loading was cancelled");
  const auto found = places_.find(name);
  if (found != places_.end() && found->second.bytes == bytes) {
    const std::byte* data = file_ + found->second.offset;
    pieces_.push_back({std::string(name), {data, static_cast<size_t>(bytes)}});
    mapped_bytes_ += bytes;
    return {data, nullptr};
  }
  auto* data = memory_.take<std::byte>(bytes);
  pieces_.push_back({std::string(name), {data, static_cast<size_t>(bytes)}});
  return {data, data};
}

}  // namespace pyllm::cpu
