// Steps that come again and again run as CUDA graphs. A model's forward lists its launches in every step, which
// takes microseconds; when the list is the one of a step before, bit for bit, that step's graph starts it all
// at once. So a graph can never be stale: what a step has of its own is in the plan's memory (step_plan.h), and
// when a buffer moves, the list differs.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>

#include "backend/cuda/launch.h"

namespace pyllm::cuda {

inline constexpr int kMostGraphRows = 512;  // larger steps keep the device busy as they are

// Decoding steps of up to that many rows, or chunks of attention, have the same launches.
int row_bucket(int rows);
int chunk_bucket(int chunks);

class StepGraphs {
 public:
  // Which graph: sizes of the step, and how many lists it has started before.
  struct Key {
    int rows, chunks, part;
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  explicit StepGraphs(bool on) : on_(on) {}

  // Starts and clears what waits in the stream: one by one the first time, as a graph when it comes again.
  void run(const Key& key, Stream& stream);

 private:
  static constexpr size_t kMost = 64;  // each holds a megabyte or so of the device

  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy>;
  struct Entry {
    LaunchList launches;
    Graph graph;  // none: came once
    int64_t used = 0;
  };

  static Graph capture(const LaunchList& launches, Stream& stream);
  Entry& entry(const Key& key);

  bool on_;
  std::map<Key, Entry> entries_;
  int64_t runs_ = 0;
};

}  // namespace pyllm::cuda
