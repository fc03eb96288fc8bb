#include "engine/mask_thread.h"

#include <exception>
#include <utility>

namespace pyllm {

MaskThread::MaskThread(std::shared_ptr<MaskSource> source, int64_t vocab)
    : source_(std::move(source)), words_(static_cast<size_t>(mask_words(vocab))) {}

MaskThread::~MaskThread() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void MaskThread::start(std::vector<MaskSource::Job> jobs) {
  jobs_ = std::move(jobs);
  if (jobs_.empty()) return;
  masks_.resize(jobs_.size() * words_);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  {
    const std::lock_guard lock(mutex_);
    busy_ = true;
  }
  changed_.notify_all();
}

void MaskThread::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !busy_; });
}

std::span<const uint32_t> MaskThread::mask(size_t job) const {
  return std::span(masks_).subspan(job * words_, words_);
}

void MaskThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return busy_ || stop_; });
    if (stop_) return;
    lock.unlock();
    fill();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

void MaskThread::fill() {
  try {
    source_->fill(jobs_, masks_);
  } catch (const std::exception& error) {
    for (MaskSource::Job& job : jobs_) job.error = error.what();
  }
}

}  // namespace pyllm
