// Which instruction sets were built, which this machine has, and which one to use.
#include "backend/cpu/select.h"

#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "core/error.h"

namespace pyllm::cpu {

namespace scalar {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avxvnni {  // AVX2 with the byte dot products of newer cores that have no AVX-512
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels kernels;
}

// Half arithmetic and sdot are options of ARMv8.2; the first cores of the architecture have neither.
static bool neon_here() {
#if defined(__linux__)
  const unsigned long needed = HWCAP_ASIMDHP | HWCAP_ASIMDDP;
  return (getauxval(AT_HWCAP) & needed) == needed;
#else
  return true;
#endif
}
#endif

std::vector<IsaInfo> instruction_sets() {
  std::vector<IsaInfo> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2_here =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512_here = avx2_here && __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  all.push_back({&avx512::kernels, avx512_here});
  all.push_back({&avxvnni::kernels, avx2_here && __builtin_cpu_supports("avxvnni")});
  all.push_back({&avx2::kernels, avx2_here});
#elif defined(__aarch64__)
  all.push_back({&neon::kernels, neon_here()});
#endif
  all.push_back({&scalar::kernels, true});
  return all;
}

const Kernels& select_kernels(const char* isa) {
  std::string wanted = isa;
  std::string source = "isa";
  if (wanted.empty()) {
    const char* forced = std::getenv("PYLLM_ISA");
    wanted = forced == nullptr ? "" : forced;
    source = "PYLLM_ISA";
  }
  std::string usable;
  for (const IsaInfo& info : instruction_sets()) {
    if (!info.supported) {
      if (wanted == info.kernels->name)
        fail(source, "=", wanted, ": this machine does not have these instructions");
      continue;
    }
    if (wanted.empty() || wanted == info.kernels->name) return *info.kernels;
    usable += std::string(usable.empty() ? "" : ", ") + info.kernels->name;
  }
  fail(source, "=", wanted, ": unknown instruction set; usable here: ", usable);
}

}  // namespace pyllm::cpu
