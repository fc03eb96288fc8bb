#include "backend/cuda/launch.h"

namespace pyllm::cuda {

void Stream::start(const Launch& l) {
  const dim3 grid(l.grid[0], l.grid[1], l.grid[2]), block(l.block[0], l.block[1], l.block[2]);
#ifdef PYLLM_EMULATED
  const auto call = [](const void* p) {
    const auto& launch = *static_cast<const Launch*>(p);
    launch.call(launch);
  };
  emulator::launch(grid, block, l.shared, call, &l, sizeof(Launch) + l.bytes);
#else
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = l.shared;
  config.stream = stream_;
  config.attrs = &attribute;
  config.numAttrs = programmatic_ ? 1 : 0;
  void* pointers[] = {const_cast<void*>(l.args())};
  check(cudaLaunchKernelExC(&config, l.kernel, pointers), "launch");
#endif
}

}  // namespace pyllm::cuda
