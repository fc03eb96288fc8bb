#include "core/thread_pool.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <system_error>

#include "core/cgroup.h"

#ifdef __linux__
#include <sched.h>
#endif

#include "core/error.h"

namespace pyllm {

namespace {

constexpr uint64_t kIndexMask = (1u << 24) - 1;
constexpr int kMaxThreads = 1024;
constexpr int kSpins = 20000;  // about 50 us: longer than the gaps between the ops of a step

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// CPUs that the tightest quota on the process's path allows, or a large number.
double quota_cpus() {
  double cpus = 1e9;
  for (const ControlGroup& group : control_groups("cpu")) {
    double micros = 0, period = 0;
    if (group.version == 2) {
      std::ifstream(group.folder + "/cpu.max") >> micros >> period;  // "max" is no number and means no limit
    } else {
      std::ifstream(group.folder + "/cpu.cfs_quota_us") >> micros;
      std::ifstream(group.folder + "/cpu.cfs_period_us") >> period;
    }
    if (micros > 0 && period > 0) cpus = std::min(cpus, micros / period);
  }
  return cpus;
}

}  // namespace

int available_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cpus = CPU_COUNT(&mask);
  cpus = static_cast<int>(std::min<double>(cpus, std::ceil(quota_cpus())));
#endif
  return std::max(cpus, 1);
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = available_cpus();
  if (threads > kMaxThreads) fail("threads: expected at most ", kMaxThreads, ", got ", threads);
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    join();
    fail("threads: the system gives only ", started, " of ", threads, ": ", error.what());
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_ = true;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::run(Job job) {
  int64_t chunks = (job.count + job.grain - 1) / job.grain;
  if (chunks >= static_cast<int64_t>(kIndexMask) / 2) {
    job.grain = job.count / (kIndexMask / 4);
    chunks = (job.count + job.grain - 1) / job.grain;
  }
  job_ = job;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 48) + 1;
  ticket_.store(epoch << 48 | static_cast<uint64_t>(chunks) << 24, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  while (claim_and_run(0)) {
  }
  while (done_.load(std::memory_order_acquire) < chunks) relax();
}

// Claims one chunk and runs it; false when the current job has none left.
bool ThreadPool::claim_and_run(int thread) {
  const uint64_t seen = ticket_.load(std::memory_order_acquire);
  if ((seen & kIndexMask) >= (seen >> 24 & kIndexMask)) return false;
  const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
  const int64_t index = static_cast<int64_t>(ticket & kIndexMask);
  if (index >= static_cast<int64_t>(ticket >> 24 & kIndexMask)) return false;
  const Job job = job_;  // valid: the job cannot end before this chunk is done
  const int64_t begin = index * job.grain;
  job.call(job.work, begin, std::min(begin + job.grain, job.count), thread);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void ThreadPool::worker(int thread) {
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    while (claim_and_run(thread)) {
    }
    int spins = 0;
    uint32_t now;
    while ((now = epoch_.load(std::memory_order_acquire)) == seen) {
      if (++spins < kSpins)
        relax();
      else
        epoch_.wait(seen, std::memory_order_acquire);
    }
    seen = now;
  }
}

}  // namespace pyllm
