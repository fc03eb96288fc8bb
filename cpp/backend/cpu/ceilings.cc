#include "backend/cpu/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "backend/cpu/memory.h"
#include "backend/cpu/select.h"
#include "core/thread_pool.h"

namespace pyllm::cpu {

namespace {

template <typename F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Ceilings measure_ceilings(int threads, const char* isa) {
  const Kernels& kernels = select_kernels(isa);
  ThreadPool pool(threads);
  constexpr int64_t kBytes = int64_t{256} << 20;  // well past any last-level cache
  constexpr int64_t kPiece = 1 << 20;
  const Memory memory(kBytes);
  std::memset(memory.data(), 1, kBytes);
  std::atomic<uint64_t> sink{0};
  double read = 1e9, dots = 1e9;
  std::atomic<int64_t> operations{0};
  for (int repeat = 0; repeat < 5; ++repeat) {
    read = std::min(read, seconds([&] {
                      pool.parallel_for(kBytes / kPiece, 1, [&](int64_t begin, int64_t end, int) {
                        const auto* p = reinterpret_cast<const uint8_t*>(memory.data());
                        uint64_t sum = 0;
                        // One load a line, fetched ahead: nothing but the memory should take time.
                        for (int64_t i = begin * kPiece; i < end * kPiece; i += 64) {
                          __builtin_prefetch(p + i + 2048);
                          sum += p[i];
                        }
                        sink += sum;
                      });
                    }));
    operations = 0;
    dots = std::min(dots, seconds([&] {
                      pool.parallel_for(pool.threads() * 16, 1, [&](int64_t begin, int64_t end, int) {
                        for (int64_t i = begin; i < end; ++i) operations += kernels.int8_ops(5000);
                      });
                    }));
  }
  return {static_cast<double>(kBytes) / read * 1e-9, static_cast<double>(operations) / dots * 1e-12};
}

}  // namespace pyllm::cpu
