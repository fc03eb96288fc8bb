// Fills the masks of a step on a thread of its own, while the model computes the logits that they are for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/mask_source.h"

namespace pyllm {

class MaskThread {
 public:
  MaskThread(std::shared_ptr<MaskSource> source, int64_t vocab);
  ~MaskThread();
  MaskThread(const MaskThread&) = delete;

  // Begins a step's jobs. Their streams must live until finish(), which has to follow.
  void start(std::vector<MaskSource::Job> jobs);
  void finish();

  // Of the jobs that have been finished, until the next start().
  std::span<const uint32_t> mask(size_t job) const;
  const std::string& error(size_t job) const { return jobs_[job].error; }

 private:
  void run();
  void fill();

  const std::shared_ptr<MaskSource> source_;
  const size_t words_;  // of a mask
  std::vector<MaskSource::Job> jobs_;
  std::vector<uint32_t> masks_;  // [job, words]

  std::mutex mutex_;
  std::condition_variable changed_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;  // begins with the first jobs
};

}  // namespace pyllm
