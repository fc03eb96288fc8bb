// The panels of all weights: packed in memory, or as an earlier start packed them, mapped from a file.
//
// The file is someone else's concern: this takes an open descriptor and where in it each weight lies, and shows
// the bytes of every weight to whoever wants to write them. Source of the form: layout.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/memory.h"

namespace pyllm::cpu {

class PackedWeights {
 public:
  struct Place {
    int64_t offset, bytes;
  };
  struct Piece {
    std::string name;
    std::span<const std::byte> bytes;
  };
  struct Room {
    const std::byte* data;
    std::byte* to_fill;  // the same place, when it is new; nullptr when the weight is there already
  };

  PackedWeights() = default;
  // Maps the whole of `fd` (which may be closed then) to be read. Throws Error unless every place is aligned
  // and within the file. The file must not shrink afterwards: touching a page that is gone ends the process.
  PackedWeights(int fd, std::map<std::string, Place, std::less<>> places);
  ~PackedWeights();
  PackedWeights(const PackedWeights&) = delete;

  // The panels of the weight called `name`: what the file holds if it has the right size, else new memory.
  // Throws Error when memory runs out, and after cancel().
  Room take(std::string_view name, int64_t bytes);
  // Counts bytes of the model's own form that were packed; any thread.
  void count(int64_t source_bytes) { packed_.fetch_add(source_bytes, std::memory_order_relaxed); }

  int64_t packed() const { return packed_.load(std::memory_order_relaxed); }
  int64_t mapped_bytes() const { return mapped_bytes_; }  // of weights that were taken from the file
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  // All that was taken, in that order. Only when no load is running.
  const std::vector<Piece>& pieces() const { return pieces_; }

  static constexpr int64_t kAlignment = 64;

 private:
  std::map<std::string, Place, std::less<>> places_;
  std::byte* reserved_ = nullptr;  // address space in which the file's bytes begin at `file_`
  size_t reserved_bytes_ = 0;
  const std::byte* file_ = nullptr;
  Arena memory_;  // side by side, in huge pages where they are offered
  std::vector<Piece> pieces_;
  int64_t mapped_bytes_ = 0;
  std::atomic<int64_t> packed_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace pyllm::cpu
