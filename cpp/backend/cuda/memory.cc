#include "backend/cuda/memory.h"

#include <algorithm>

namespace pyllm::cuda {

namespace {

constexpr int64_t kAlign = 256, kSlab = 32 << 20;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // pieces lie apart where they can, so that reads beyond them are caught
#else
constexpr bool kSanitized = false;
#endif

double megabytes(size_t bytes) { return static_cast<double>(bytes / 10000) / 100.0; }

}  // namespace

DeviceMemory::DeviceMemory(int64_t bytes, const char* what) : bytes_(bytes) {
  void* p = nullptr;
  if (const cudaError_t error = cudaMalloc(&p, static_cast<size_t>(std::max<int64_t>(bytes, 16)));
      error != cudaSuccess) {
    cudaGetLastError();  // forgotten: the device goes on
    size_t free = 0, total = 0;
    if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &total) == cudaSuccess)
      fail("CUDA: out of memory: ", what, " needs ", megabytes(static_cast<size_t>(bytes)), " MB, and of ",
           megabytes(total), " MB ", megabytes(free), " MB are free");
    check(error, what);
  }
  data_.reset(p);
}

void* PinnedMemory::reserve(int64_t bytes) {
  if (bytes > bytes_ || !data_) {
    data_.reset();
    bytes_ = 0;
    void* p = nullptr;
    const int64_t rounded = std::max<int64_t>(4096, bytes + bytes / 4);
    check(cudaMallocHost(&p, static_cast<size_t>(rounded)), "locked memory of the host");
    data_.reset(p);
    bytes_ = rounded;
  }
  return data_.get();
}

void* Arena::take_bytes(int64_t bytes) {
  const int64_t rounded = apart_ ? bytes : (bytes + kAlign - 1) / kAlign * kAlign;
  while (slab_ < slabs_.size() && (used_ + rounded > slabs_[slab_].bytes() || (apart_ && used_ > 0))) {
    ++slab_;
    used_ = 0;
  }
  if (slab_ == slabs_.size())
    slabs_.emplace_back(apart_ ? rounded : std::max(rounded, kSlab), "a step's scratch");
  char* p = slabs_[slab_].as<char>() + used_;
  used_ += rounded;
  return p;
}

void Arena::release(int64_t mark) {
  slab_ = static_cast<size_t>(mark >> 44);
  used_ = mark & ((int64_t{1} << 44) - 1);
  if (apart_) slabs_.resize(std::min(slabs_.size(), slab_ + (used_ > 0 ? 1 : 0)));
}

void Arena::start(bool again) {
  slab_ = 0;
  used_ = 0;
  const bool apart = kSanitized && !again;
  if (apart || apart_) slabs_.clear();
  apart_ = apart;
  if (slabs_.size() <= 1) return;
  int64_t all = 0;
  for (const DeviceMemory& slab : slabs_) all += slab.bytes();
  slabs_.clear();
  slabs_.emplace_back(all, "a step's scratch");
}

}  // namespace pyllm::cuda
