// Devices beside the CPU. Their library is opened when somebody first asks for them: the core links to none,
// and runs where there is no such library, no driver or no device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/entry.h"

namespace pyllm {

struct DeviceList {
  std::vector<cuda::DeviceInfo> devices;  // by their number; some may be unusable
  std::string why;                        // there is none, in a sentence
};

// What is there now: free memory changes.
DeviceList list_devices();

// Throws Error: why there is no such device, or why it cannot be used.
std::unique_ptr<Backend> make_device_backend(int device, const BackendOptions& options);

// Bytes that a weight takes in a device's memory; -1 when it cannot be multiplied there. Throws Error without a
// library.
int64_t device_matrix_bytes(Type type, int64_t rows, int64_t cols);

// The functions of entry.h.
struct DeviceLibrary {
  decltype(&pyllm_cuda_devices) devices = nullptr;
  decltype(&pyllm_cuda_matrix_bytes) matrix_bytes = nullptr;
  decltype(&pyllm_cuda_backend) backend = nullptr;
};

// From now on `library` stands for the one in the file; nullptr: that one again. For tests.
void replace_device_library(const DeviceLibrary* library);

}  // namespace pyllm
