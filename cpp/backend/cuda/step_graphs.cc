#include "backend/cuda/step_graphs.h"

#include <algorithm>

namespace pyllm::cuda {

int row_bucket(int rows) {
  // Products take 4, 8 or 32 columns at a time: between these a padding row costs next to nothing.
  for (const int bucket : {1, 2, 4, 8, 16, 24})
    if (rows <= bucket) return bucket;
  return (rows + 31) / 32 * 32;
}

int chunk_bucket(int chunks) {
  int bucket = 1;  // 1, 2, 3, 4, 6, 8, 12, 16, 24 ...
  while (bucket < chunks) {
    if (bucket >= 2 && bucket + bucket / 2 >= chunks) return bucket + bucket / 2;
    bucket *= 2;
  }
  return bucket;
}

StepGraphs::Graph StepGraphs::capture(const LaunchList& launches, Stream& stream) {
  if (cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  bool good = true;
  try {
    launches.each([&](const Launch& launch) { stream.start(launch); });
  } catch (const Error&) {
    good = false;
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  good &= cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess && graph != nullptr;
  if (good) good = cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
  if (graph != nullptr) cudaGraphDestroy(graph);
  return Graph(good ? executable : nullptr);
}

StepGraphs::Entry& StepGraphs::entry(const Key& key) {
  if (!entries_.contains(key) && entries_.size() == kMost)
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.used < b.second.used;
    }));
  Entry& entry = entries_[key];
  entry.used = ++runs_;
  return entry;
}

void StepGraphs::run(const Key& key, Stream& stream) {
  LaunchList& launches = stream.waiting();
  if (launches.empty()) return;
  Entry* known = on_ ? &entry(key) : nullptr;
  const bool again = known != nullptr && known->launches == launches;
  if (again && !known->graph) {
    known->graph = capture(launches, stream);
    if (!known->graph) {  // the driver will not: the launches themselves will do
      cudaGetLastError();
      on_ = false;
      entries_.clear();
      known = nullptr;
    }
  }
  if (again && known != nullptr) {
    check(cudaGraphLaunch(known->graph.get(), stream.get()), "a step's graph");
  } else {
    launches.each([&](const Launch& launch) { stream.start(launch); });
    if (known != nullptr) {
      known->graph = nullptr;
      std::swap(known->launches, launches);
    }
  }
  launches.clear();
}

}  // namespace pyllm::cuda
