// Fork-join over a fixed set of threads: chunks are claimed one by one, idle threads spin briefly, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace pyllm {

// CPUs this process may use: its affinity mask and its cgroup's quota, at least 1.
int available_cpus();

class ThreadPool {
 public:
  // `threads` includes the caller; 0 means available_cpus(). Throws Error when the system gives too few.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(begin, end, thread) over [0, count) in chunks of at most `grain` and returns when all are done.
  // `f` must not throw. A job of a single chunk runs on the caller without touching the others.
  template <typename F>
  void parallel_for(int64_t count, int64_t grain, F&& f) {
    if (count <= 0) return;
    if (count <= grain || workers_.empty()) return f(int64_t{0}, count, 0);
    using Work = std::remove_reference_t<F>;
    run({[](void* work, int64_t begin, int64_t end, int thread) {
           (*static_cast<Work*>(work))(begin, end, thread);
         },
         const_cast<void*>(static_cast<const void*>(&f)), count, grain});
  }

 private:
  struct Job {
    void (*call)(void*, int64_t begin, int64_t end, int thread);
    void* work;
    int64_t count, grain;
  };
  void join();
  void run(Job job);
  bool claim_and_run(int thread);
  void worker(int thread);

  // Ticket: epoch (16 bits), chunks of the job (24), next chunk (24). A claim carries everything needed to
  // know whether it is valid, so a worker that comes late cannot touch a job that is over.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> epoch_{0};  // what sleepers wait on
  std::atomic<int64_t> done_{0};    // chunks finished
  std::atomic<bool> stop_{false};
  Job job_{};
  std::vector<std::thread> workers_;
};

}  // namespace pyllm
