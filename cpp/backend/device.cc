#include "backend/device.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace pyllm {

namespace {

constexpr size_t kErrorBytes = 1024;

std::atomic<const DeviceLibrary*> replacement = nullptr;

struct Opened {
  DeviceLibrary functions;
  std::string why;  // it cannot be used; empty: it can
};

// The folder of the file that this code was loaded from: _core's.
std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

template <typename Function>
void find(void* handle, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(handle, name));
  if (function == nullptr) fail("it has no ", name);
}

DeviceLibrary functions_of(void* handle) {
  if (handle == nullptr) {
    const char* reason = dlerror();
    fail(reason != nullptr ? reason : "it cannot be opened");
  }
  DeviceLibrary library;
  decltype(&pyllm_cuda_abi) abi = nullptr;
  find(handle, "pyllm_cuda_abi", abi);
  if (const int found = abi(); found != cuda::kAbi)
    fail("it belongs to another version of pyllm (interface ", found, ", expected ", cuda::kAbi,
         "); install pyllm again");
  find(handle, "pyllm_cuda_devices", library.devices);
  find(handle, "pyllm_cuda_matrix_bytes", library.matrix_bytes);
  find(handle, "pyllm_cuda_backend", library.backend);
  return library;
}

Opened open_library() {
  const char* named = std::getenv("PYLLM_CUDA_LIBRARY");
  const bool is_named = named != nullptr && *named != '\0';
  std::error_code ignored;
  // Absolute: of a bare name, dlopen would look in the system's folders.
  const std::filesystem::path path =
      is_named ? std::filesystem::absolute(named, ignored) : own_folder() / cuda::kLibrary;
  if (!std::filesystem::exists(path, ignored))
    return {{},
            is_named ? message("PYLLM_CUDA_LIBRARY names ", path.string(), ", which is not there")
                     : message("pyllm was installed without CUDA (no ", cuda::kLibrary, " in ",
                               path.parent_path().string(), ")")};
  try {
    return {functions_of(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)), ""};
  } catch (const Error& error) {
    return {{}, message(path.string(), " cannot be used: ", error.what())};
  }
}

Opened library() {
  if (const DeviceLibrary* library = replacement.load()) return {*library, ""};
  static const Opened opened = open_library();  // for good: backends may live until the end
  return opened;
}

template <size_t N>
std::string text(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

}  // namespace

DeviceList list_devices() {
  const Opened opened = library();
  if (!opened.why.empty()) return {{}, opened.why};
  char error[kErrorBytes] = "";
  DeviceList list;
  int count = opened.functions.devices(nullptr, 0, error, sizeof error);
  if (count > 0) {
    list.devices.resize(static_cast<size_t>(count));
    count = opened.functions.devices(list.devices.data(), count, error, sizeof error);
    list.devices.resize(static_cast<size_t>(std::clamp(count, 0, static_cast<int>(list.devices.size()))));
  }
  if (count < 0)
    list.why = error[0] != '\0' ? error : "the CUDA library does not say why it finds no GPU";
  else if (list.devices.empty())
    list.why = "there is no NVIDIA GPU, or none that this process may see (CUDA_VISIBLE_DEVICES)";
  return list;
}

std::unique_ptr<Backend> make_device_backend(int device, const BackendOptions& options) {
  const DeviceList list = list_devices();
  if (list.devices.empty()) fail("cuda:", device, ": ", list.why);
  if (device < 0 || device >= static_cast<int>(list.devices.size()))
    fail("cuda:", device, ": expected a device from 0 to ", list.devices.size() - 1);
  const std::string unusable = text(list.devices[static_cast<size_t>(device)].unusable);
  if (!unusable.empty()) fail("cuda:", device, ": ", unusable);
  char error[kErrorBytes] = "";
  std::unique_ptr<Backend> backend(library().functions.backend(device, &options, error, sizeof error));
  if (!backend) fail("cuda:", device, ": ", error[0] != '\0' ? error : "the CUDA library does not say why");
  return backend;
}

int64_t device_matrix_bytes(Type type, int64_t rows, int64_t cols) {
  const Opened opened = library();
  if (!opened.why.empty()) fail(opened.why);
  return opened.functions.matrix_bytes(static_cast<uint32_t>(type), rows, cols);
}

void replace_device_library(const DeviceLibrary* library) { replacement = library; }

}  // namespace pyllm
