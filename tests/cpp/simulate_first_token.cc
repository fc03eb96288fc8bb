// How many steps a short prompt takes to its first token while long ones are being read and others decode.
//
//     simulate_first_token FIRST_SEED COUNT
//
// prints what the schedules did, or the first failing seed and exits with 1.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/scheduler.h"

namespace pyllm {
namespace {

void check(bool right, const char* what) {
  if (!right) throw std::runtime_error(what);
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), scheduler_({1 << 14, budget_, 64, 64, seed % 2 == 0}) {}

  // The most steps that a short prompt took.
  int run() {
    for (int i = between(1, 4); i > 0; --i) add(between(1000, 6000));
    for (int i = between(0, 24); i > 0; --i) add(1);
    for (int i = between(0, 6); i > 0; --i) step();
    int most = 0;
    for (int round = 0; round < 8; ++round) {
      // Together no more than the half that goes by length.
      std::vector<uint64_t> shorts;
      const int count = between(1, 3), half = (budget_ - static_cast<int>(scheduler_.running().size())) / 2;
      for (int i = 0; i < count; ++i) shorts.push_back(add(between(2, half / count)));
      int steps = 1;
      for (; !step(shorts); ++steps) check(steps < 100, "a short prompt starves");
      most = std::max(most, steps);
    }
    const uint64_t first = scheduler_.running().begin()->second.request;
    for (int steps = 0; !scheduler_.idle() && scheduler_.running().begin()->second.request == first; ++steps) {
      check(steps < 6000 / (budget_ / 3) + answer_, "the first in order does not get on");
      step();
    }
    return most;
  }

 private:
  int between(int low, int high) { return low + static_cast<int>(random_() % (high - low + 1)); }

  uint64_t add(int tokens) {
    Sequence s;
    s.request = next_++;
    for (int i = 0; i < tokens; ++i) s.tokens.push_back(between(0, 1000));
    scheduler_.add(std::move(s), 0);
    return next_ - 1;
  }

  // Whether all of `wanted` had their first token by the end of the step.
  bool step(const std::vector<uint64_t>& wanted = {}) {
    const Plan plan = scheduler_.plan();
    int64_t lacking = 0;
    for (const auto& [order, s] : scheduler_.running()) lacking += s.pending();
    check(static_cast<int64_t>(plan.batch.tokens.size()) == std::min<int64_t>(budget_, lacking),
          "a part of the step is wasted");
    std::vector<Next> next;
    for (const Chunk& chunk : plan.chunks) {
      if (chunk.samples == 0) continue;
      const uint64_t request = chunk.sequence->request;
      if (request >= got_.size()) got_.resize(request + 1);
      next.push_back({1, ++got_[request] == answer_});
    }
    scheduler_.commit(plan, next);
    return std::all_of(wanted.begin(), wanted.end(), [&](uint64_t id) { return id < got_.size() && got_[id]; });
  }

  std::mt19937_64 random_;
  const int budget_ = between(64, 512), answer_ = between(1, 200);
  Scheduler scheduler_;
  uint64_t next_ = 0;
  std::vector<int> got_;  // [request] tokens
};

}  // namespace
}  // namespace pyllm

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s FIRST_SEED COUNT\n", argv[0]), 2;
  const uint64_t first = std::strtoull(argv[1], nullptr, 10), count = std::strtoull(argv[2], nullptr, 10);
  int most = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    try {
      most = std::max(most, pyllm::Simulation(seed).run());
    } catch (const std::exception& error) {
      return std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), error.what()), 1;
    }
  }
  std::printf("{\"schedules\": %llu, \"most_steps\": %d}\n", static_cast<unsigned long long>(count), most);
}
