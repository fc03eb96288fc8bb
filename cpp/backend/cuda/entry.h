// What the core calls in libpyllm_cuda.so, which it opens at run time with dlopen(path, RTLD_NOW | RTLD_LOCAL):
// machines without a driver, and builds without a toolkit, run the same core. Nothing here needs CUDA's
// headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pyllm {
class Backend;
struct BackendOptions;
}  // namespace pyllm

namespace pyllm::cuda {

inline constexpr char kLibrary[] = "libpyllm_cuda.so";  // lies beside _core

// Grows whenever this file or backend.h changes: a library of another build must not be used.
inline constexpr int kAbi = 3;

struct DeviceInfo {
  char name[128];
  char pci[32];        // "0000:01:00.0"
  char unusable[256];  // why this device cannot be used, for the user; empty: it can
  int major, minor;    // compute capability
  int multiprocessors;
  int driver, toolkit;  // CUDA versions: 1000 major + 10 minor; the driver's newest, and the library's own
  int64_t total_bytes, free_bytes;  // free once this process has its context there
  int64_t l2_bytes;
};

}  // namespace pyllm::cuda

// None of these throws; `error` gets a sentence for the user, always terminated.
extern "C" {

// pyllm::cuda::kAbi as the library was built. Check it before anything else.
int pyllm_cuda_abi();

// Fills out[0 .. min(count, capacity)) and returns the count (0 is not an error), or -1 and why: no driver, a
// driver that is too old ... `out` may be nullptr when capacity is 0.
int pyllm_cuda_devices(pyllm::cuda::DeviceInfo* out, int capacity, char* error, size_t error_size);

// Bytes that a matrix of this type takes in the device's memory, or -1 when it cannot be multiplied there.
int64_t pyllm_cuda_matrix_bytes(uint32_t type, int64_t rows, int64_t cols);

// A backend on that device, owned by the caller (delete it before closing the library), or nullptr and why.
// Its ops throw pyllm::Error; memory that runs out says so with the numbers. `threads`, `isa` and `packed` of
// the options are not used.
pyllm::Backend* pyllm_cuda_backend(int device, const pyllm::BackendOptions* options, char* error,
                                   size_t error_size);
}
