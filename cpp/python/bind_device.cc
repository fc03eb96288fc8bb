// Which devices there are, and what a model would need of them: known before anything is loaded.
#include "backend/cpu/pack.h"
#include "backend/device.h"
#include "core/error.h"
#include "engine/kv_size.h"
#include "python/module.h"
#include "quant/dequantize.h"

namespace pyllm::python {
namespace {

py::dict describe(const cuda::DeviceInfo& info) {
  py::dict out;
  out["name"] = std::string(info.name);
  out["pci"] = std::string(info.pci);
  out["unusable"] = std::string(info.unusable);
  out["compute"] = py::make_tuple(info.major, info.minor);
  out["multiprocessors"] = info.multiprocessors;
  out["driver"] = py::make_tuple(info.driver / 1000, info.driver % 1000 / 10);
  out["toolkit"] = py::make_tuple(info.toolkit / 1000, info.toolkit % 1000 / 10);
  out["total_bytes"] = info.total_bytes;
  out["free_bytes"] = info.free_bytes;
  return out;
}

py::tuple devices() {
  DeviceList found;
  {
    py::gil_scoped_release release;
    found = list_devices();
  }
  py::list list;
  for (const cuda::DeviceInfo& info : found.devices) list.append(describe(info));
  return py::make_tuple(list, found.why);
}

int64_t matrix_bytes(const std::string& type_name, int64_t rows, int64_t cols, bool on_device) {
  for (const TypeInfo& info : kTypes) {
    if (type_name != info.name) continue;
    if (on_device) return device_matrix_bytes(info.type, rows, cols);
    if (!quant::is_weight_type(info.type) || cols % info.block != 0) return -1;
    const cpu::PackedType* packed = cpu::packed_type(info.type);
    if (packed != nullptr && !packed->keep_packed) return rows * (cols / info.block) * info.bytes;
    return (rows + cpu::kPanelRows - 1) / cpu::kPanelRows * cpu::panel_bytes(info.type, cols);
  }
  fail("unknown tensor type ", type_name);
}

using Room = std::tuple<int64_t, int64_t, int64_t, bool>;

int blocks(const std::vector<Room>& rooms, int64_t context, int64_t sequences, int64_t kv_bytes) {
  KvDemand demand{{}, context, sequences, kv_bytes};
  for (const auto& [block_bytes, available, mapped_bytes, device_owned] : rooms) {
    if (block_bytes < 1 || context < 1 || sequences < 1) fail("kv_pool_blocks: expected sizes of at least 1");
    demand.rooms.push_back({block_bytes, available, mapped_bytes, device_owned});
  }
  return kv_pool_blocks(demand);
}

}  // namespace

void bind_device(py::module_& m) {
  m.def("devices", &devices);
  m.def("matrix_bytes", &matrix_bytes, py::arg("type"), py::arg("rows"), py::arg("cols"),
        py::arg("on_device") = false);
  m.def("kv_pool_blocks", &blocks, py::arg("rooms"), py::arg("context"), py::arg("sequences"),
        py::arg("kv_bytes") = 0);
}

}  // namespace pyllm::python
