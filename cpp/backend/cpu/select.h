#pragma once

#include <vector>

#include "backend/cpu/kernels.h"

namespace pyllm::cpu {

struct IsaInfo {
  const Kernels* kernels;
  bool supported;  // by this machine
};

// All that were built, best first.
std::vector<IsaInfo> instruction_sets();

// The kernels for `isa` ("" means PYLLM_ISA or the best one). Throws Error when it is unknown or not supported
// here.
const Kernels& select_kernels(const char* isa);

}  // namespace pyllm::cpu
