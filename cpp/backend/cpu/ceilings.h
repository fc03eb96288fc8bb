// What this machine can do at most, measured: every speed is quoted as a share of these.
#pragma once

namespace pyllm::cpu {

struct Ceilings {
  double read_gbps;  // memory read by all threads together, 10^9 bytes per second
  double int8_tops;  // integer dot products on all threads, 10^12 operations per second (a multiply-add is two)
};

// Takes about a third of a second. `threads` as in ThreadPool, `isa` as in select_kernels.
Ceilings measure_ceilings(int threads, const char* isa);

}  // namespace pyllm::cpu
