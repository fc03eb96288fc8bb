#include "backend/cuda/entry.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <exception>

#include "backend/cuda/cuda_backend.h"

#define PYLLM_EXPORT __attribute__((visibility("default")))

namespace {

using pyllm::cuda::DeviceInfo;

void say(char* error, size_t size, const char* text) {
  if (size > 0) std::snprintf(error, size, "%s", text);
}

// "12.4" of 12040.
void version_text(int version, char (&out)[16]) {
  std::snprintf(out, sizeof out, "%d.%d", version / 1000, version % 1000 / 10);
}

// Why there may be no devices at all; false: there are some, or none but no reason.
bool no_devices(cudaError_t error, int driver, int toolkit, char* text, size_t size) {
  if (error == cudaSuccess || error == cudaErrorNoDevice) return false;
  char has[16], wants[16];
  version_text(driver, has);
  version_text(toolkit, wants);
  if (driver == 0)
    say(text, size, "there is no NVIDIA driver on this machine");
  else if (driver < toolkit && size > 0)
    std::snprintf(
        text, size,
        "the NVIDIA driver is too old: it supports CUDA %s, and pyllm was built with %s; update the driver",
        has, wants);
  else if (size > 0)
    std::snprintf(text, size, "the NVIDIA driver answers: %s", cudaGetErrorString(error));
  return true;
}

DeviceInfo describe(int device, int driver, int toolkit) {
  DeviceInfo info{};
  info.driver = driver;
  info.toolkit = toolkit;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) {
    std::snprintf(info.name, sizeof info.name, "%.*s", static_cast<int>(sizeof info.name) - 1, properties.name);
    info.major = properties.major;
    info.minor = properties.minor;
    info.multiprocessors = properties.multiProcessorCount;
    info.l2_bytes = properties.l2CacheSize;
    info.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    cudaDeviceGetPCIBusId(info.pci, sizeof info.pci, device);
    if (info.major < 8) {
      std::snprintf(info.unusable, sizeof info.unusable,
                    "its compute capability is %d.%d; pyllm's kernels need 8.0 (Ampere, 2020) or newer",
                    info.major, info.minor);
      return info;
    }
    error = cudaSetDevice(device);
  }
  size_t free = 0, total = 0;
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
  if (error == cudaSuccess) error = pyllm::cuda::kernels_run_here();
  info.free_bytes = static_cast<int64_t>(free);
  if (error != cudaSuccess)
    std::snprintf(info.unusable, sizeof info.unusable, "the driver answers: %s", cudaGetErrorString(error));
  return info;
}

}  // namespace

extern "C" {

PYLLM_EXPORT int pyllm_cuda_abi() { return pyllm::cuda::kAbi; }

PYLLM_EXPORT int pyllm_cuda_devices(DeviceInfo* out, int capacity, char* error, size_t error_size) {
  say(error, error_size, "");
  int driver = 0, toolkit = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&toolkit);
  const cudaError_t found = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (no_devices(found, driver, toolkit, error, error_size)) return -1;
  if (found != cudaSuccess) return 0;
  for (int i = 0; i < std::min(count, capacity); ++i) out[i] = describe(i, driver, toolkit);
  cudaGetLastError();
  return count;
}

PYLLM_EXPORT int64_t pyllm_cuda_matrix_bytes(uint32_t type, int64_t rows, int64_t cols) {
  if (pyllm::type_info(type) == nullptr) return -1;
  return pyllm::cuda::matrix_bytes(static_cast<pyllm::Type>(type), rows, cols);
}

PYLLM_EXPORT pyllm::Backend* pyllm_cuda_backend(int device, const pyllm::BackendOptions* options, char* error,
                                                size_t error_size) {
  say(error, error_size, "");
  try {
    return new pyllm::cuda::CudaBackend(device, *options);
  } catch (const std::exception& failure) {
    say(error, error_size, failure.what());
    return nullptr;
  }
}
}
