#include "gguf/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "core/error.h"
#include "core/utf8.h"

namespace pyllm::gguf {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

std::string reason(int error) { return std::generic_category().message(error); }

int64_t nanoseconds(const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

}  // namespace

Mapping::Mapping(const std::string& path) {
  const std::string shown = printable(path, 4096);
  if (path.empty()) fail("no file: the path is empty");
  if (path.find('\0') != std::string::npos) fail(shown, ": a path cannot hold a zero byte");
  // Non-blocking: opening a named pipe must not wait for its writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0 && (errno == ENOENT || errno == ENOTDIR)) fail(shown, ": no such file");
  if (file.fd < 0) fail(shown, ": cannot be opened: ", reason(errno));
  struct stat status;
  if (fstat(file.fd, &status) != 0) fail(shown, ": cannot be read: ", reason(errno));
  if (S_ISDIR(status.st_mode)) fail(shown, ": expected a GGUF file, found a directory");
  if (!S_ISREG(status.st_mode))
    fail(shown, ": expected a GGUF file, found something that is not a regular file");
  if (status.st_size == 0) fail(shown, ": expected a GGUF file, found an empty file");
  const auto size = static_cast<size_t>(status.st_size);
  void* start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (start == MAP_FAILED) fail(shown, ": cannot be mapped into memory: ", reason(errno));
  bytes_ = {static_cast<const std::byte*>(start), size};
#ifdef __APPLE__
  const timespec &modified = status.st_mtimespec, &changed = status.st_ctimespec;
#else
  const timespec &modified = status.st_mtim, &changed = status.st_ctim;
#endif
  identity_ = {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
               static_cast<uint64_t>(status.st_size), nanoseconds(modified), nanoseconds(changed)};
}

Mapping::~Mapping() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void Mapping::forget(std::span<const std::byte> part) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(part.data() - bytes_.data());
  const size_t first = (offset + page - 1) / page * page, last = (offset + part.size()) / page * page;
  if (first < last) madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);
}

}  // namespace pyllm::gguf
