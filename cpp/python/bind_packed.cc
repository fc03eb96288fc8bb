// Packed weights for Python, which finds, checks and writes the files that they are kept in.
#include "backend/cpu/pack.h"
#include "backend/cpu/packed_weights.h"
#include "core/error.h"
#include "python/module.h"

namespace pyllm::python {
namespace {

using cpu::PackedWeights;

// One weight's bytes; keeps the memory alive.
struct PackedPiece {
  std::shared_ptr<PackedWeights> owner;
  PackedWeights::Piece piece;
};

std::shared_ptr<PackedWeights> from_file(int fd,
                                         const std::vector<std::tuple<std::string, int64_t, int64_t>>& places) {
  std::map<std::string, PackedWeights::Place, std::less<>> by_name;
  for (const auto& [name, offset, bytes] : places)
    if (!by_name.emplace(name, PackedWeights::Place{offset, bytes}).second)
      fail("packed weights: ", name, " is there twice");
  return std::make_shared<PackedWeights>(fd, std::move(by_name));
}

}  // namespace

void bind_packed(py::module_& m) {
  py::class_<PackedPiece>(m, "PackedPiece", py::buffer_protocol(),
                          "A weight's packed bytes: a read-only buffer.")
      .def_buffer([](PackedPiece& p) {
        return py::buffer_info(reinterpret_cast<const uint8_t*>(p.piece.bytes.data()),
                               static_cast<py::ssize_t>(p.piece.bytes.size()), true);
      })
      .def_property_readonly("name", [](const PackedPiece& p) { return p.piece.name; });

  py::class_<PackedWeights, std::shared_ptr<PackedWeights>>(
      m, "PackedWeights", "All weights as the CPU's kernels want them, in memory or mapped from a file.")
      .def(py::init<>())
      .def(py::init(&from_file), py::arg("fd"), py::arg("places"),
           "Map an open file, where each (name, offset, bytes) lies. Raises PyllmError for places outside it.")
      .def_property_readonly("packed", &PackedWeights::packed, "Bytes of the model's file packed so far.")
      .def_property_readonly("mapped_bytes", &PackedWeights::mapped_bytes, "Bytes taken from the file.")
      .def("cancel", &PackedWeights::cancel, "Make a load that is running fail soon.")
      .def_property_readonly(
          "pieces",
          [](const std::shared_ptr<PackedWeights>& self) {
            py::list out;
            for (const PackedWeights::Piece& piece : self->pieces()) out.append(PackedPiece{self, piece});
            return out;
          },
          "[PackedPiece] of a loaded model, in the order of loading.");
  m.def("packing_fingerprint", &cpu::packing_fingerprint,
        "A number that changes whenever this build packs weights differently.");
}

}  // namespace pyllm::python
