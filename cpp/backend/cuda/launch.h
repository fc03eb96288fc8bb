// Errors, launches and the stream they go to.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"

namespace pyllm::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail("CUDA: ", what, ": ", cudaGetErrorString(error));
}

// A kernel, how to start it, and its one struct of arguments, which lies right behind.
struct alignas(16) Launch {
  const void* kernel;
  void (*call)(const Launch&);  // what the emulator runs; nullptr on a GPU
  uint32_t grid[3], block[3];
  uint32_t shared, bytes;  // of shared memory and of arguments

  const void* args() const { return this + 1; }
};

// Launches as plain data, to be compared and started later.
class LaunchList {
 public:
  void add(const Launch& launch) {
    const size_t at = bytes_.size(), size = sizeof(Launch) + launch.bytes;
    bytes_.resize(at + (size + 15) / 16 * 16);
    std::memcpy(bytes_.data() + at, &launch, size);
  }
  template <typename F>
  void each(F&& f) const {
    for (size_t at = 0; at < bytes_.size();) {
      const auto& launch = *reinterpret_cast<const Launch*>(bytes_.data() + at);
      f(launch);
      at += (sizeof(Launch) + launch.bytes + 15) / 16 * 16;
    }
  }
  bool empty() const { return bytes_.empty(); }
  void clear() { bytes_.clear(); }
  friend bool operator==(const LaunchList& a, const LaunchList& b) {
    return a.bytes_.size() == b.bytes_.size() &&
           (a.empty() || std::memcmp(a.bytes_.data(), b.bytes_.data(), a.bytes_.size()) == 0);
  }

 private:
  std::vector<std::byte> bytes_;
};

// Kernels and copies, in order, on one device. Every kernel takes one struct, so that a launch is plain data.
class Stream {
 public:
  // programmatic: a kernel's blocks may be there before the one ahead has ended (compute capability 9.0); every
  // kernel therefore begins with after_previous().
  Stream(cudaStream_t stream, bool programmatic) : stream_(stream), programmatic_(programmatic) {}
  cudaStream_t get() const { return stream_; }

  template <typename Args>
  void launch(void (*kernel)(Args), dim3 grid, dim3 block, size_t shared, const Args& args) {
    static_assert(alignof(Args) <= 16);
    struct {
      Launch launch;
      Args args;
    } both{{reinterpret_cast<const void*>(kernel),
            nullptr,
            {grid.x, grid.y, grid.z},
            {block.x, block.y, block.z},
            static_cast<uint32_t>(shared),
            sizeof(Args)},
           args};
    static_assert(sizeof both.launch == sizeof(Launch));
#ifdef PYLLM_EMULATED
    both.launch.call = [](const Launch& l) {
      reinterpret_cast<void (*)(Args)>(const_cast<void*>(l.kernel))(*static_cast<const Args*>(l.args()));
    };
#else
    constexpr size_t kUsual = 48 << 10;  // above it a kernel must be told
    if (shared > kUsual)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
            "shared memory");
#endif
    if (deferring_)
      waiting_.add(both.launch);
    else
      start(both.launch);
  }
  void start(const Launch& launch);

  // Whether launches wait, from now on, for somebody to start or clear them.
  void defer(bool on) { deferring_ = on; }
  LaunchList& waiting() { return waiting_; }

 private:
  cudaStream_t stream_;
  bool programmatic_;
  bool deferring_ = false;
  LaunchList waiting_;
};

}  // namespace pyllm::cuda
