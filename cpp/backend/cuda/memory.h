// Memory of a device, memory that copies to it quickly, and the scratch of a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cuda/launch.h"

namespace pyllm::cuda {

// On the current device. Throws Error, with the numbers, when there is too little; `what` says for what.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(int64_t bytes, const char* what);

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  explicit operator bool() const { return data_ != nullptr; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { cudaFree(p); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t bytes_ = 0;
};

// Of the host, locked; grows when asked for more, and forgets what it held.
class PinnedMemory {
 public:
  void* reserve(int64_t bytes);

 private:
  struct Free {
    void operator()(void* p) const { cudaFreeHost(p); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t bytes_ = 0;
};

// What a step takes comes from slabs that stay: once a step of some size has run, the next takes no new memory.
class Arena {
 public:
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  int64_t mark() const { return static_cast<int64_t>(slab_) << 44 | used_; }
  void release(int64_t mark);
  // A step begins: all is free; several slabs become one. `again`: the same pieces are to lie where they lay in
  // such a step before.
  void start(bool again);

 private:
  void* take_bytes(int64_t bytes);

  std::vector<DeviceMemory> slabs_;
  size_t slab_ = 0;     // that is taken from
  bool apart_ = false;  // every piece on its own
  int64_t used_ = 0;
};

}  // namespace pyllm::cuda
