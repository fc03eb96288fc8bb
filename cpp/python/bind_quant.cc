// Weight types for Python: dequantization, and the contract's own numbers for tests.
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "python/module.h"
#include "quant/dequantize.h"
#include "quant/types.h"
#include "quantize/quantize.h"

namespace pyllm::python {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

std::vector<std::string> weight_types() {
  std::vector<std::string> names;
  for (const TypeInfo& info : kTypes)
    if (quant::is_weight_type(info.type)) names.emplace_back(info.name);
  return names;
}

const TypeInfo& weight_type(const std::string& name) {
  for (const TypeInfo& info : kTypes)
    if (name == info.name && quant::is_weight_type(info.type)) return info;
  std::string known;
  for (const std::string& other : weight_types()) known += (known.empty() ? "" : ", ") + other;
  fail("type '", name, "': expected one of ", known);
}

// A whole number of blocks in a contiguous buffer of bytes, borrowed.
struct Blocks {
  py::buffer_info info;
  const unsigned char* data;
  int64_t count;
};

Blocks blocks_of(const TypeInfo& type, const py::buffer& buffer) {
  Blocks blocks{buffer.request(), nullptr, 0};
  py::ssize_t stride = blocks.info.itemsize;
  for (py::ssize_t i = blocks.info.ndim; i-- > 0; stride *= blocks.info.shape[i])
    if (blocks.info.shape[i] > 1 && blocks.info.strides[i] != stride)
      fail("weights: expected contiguous data; copy it first");
  const int64_t bytes = blocks.info.size * blocks.info.itemsize;
  if (bytes % type.bytes != 0)
    fail("weights: expected a multiple of ", type.bytes, " bytes for ", type.name, ", got ", bytes);
  blocks.data = static_cast<const unsigned char*>(blocks.info.ptr);
  blocks.count = bytes / type.bytes;
  return blocks;
}

py::array_t<float> dequantize(const std::string& name, const py::buffer& buffer, int64_t n) {
  const TypeInfo& type = weight_type(name);
  const Blocks blocks = blocks_of(type, buffer);
  if (n != blocks.count * type.block)
    fail("dequantize: expected ", blocks.count * type.block, " weights in ", blocks.count * type.bytes,
         " bytes of ", type.name, ", got n = ", n);
  py::array_t<float> out(n);
  float* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    quant::dequantize_row(type.type, blocks.data, n, to);
  }
  return out;
}

template <typename Q>
py::dict contract() {
  using namespace py::literals;
  py::object table = py::none();
  if constexpr (quant::has_table<Q>) table = py::cast(std::vector<int>(Q::table, Q::table + 16));
  const char* scales = Q::scales == quant::Scales::Half    ? "half"
                       : Q::scales == quant::Scales::Super ? "super"
                                                           : "float";
  return py::dict("block"_a = int{Q::block}, "bytes"_a = sizeof(typename Q::Block), "group"_a = int{Q::group},
                  "code_bits"_a = int{Q::code_bits}, "zero"_a = int{Q::zero}, "has_min"_a = bool{Q::has_min},
                  "scales"_a = scales, "table"_a = table);
}

// scale, min: float32 [block, group]; codes, values: uint8 [block, group, weight];
// of Super types also d, dmin: uint16 [block] (halfs) and the integers scale_of, min_of: [block, group].
template <typename Q>
py::dict groups(const Blocks& blocks) {
  constexpr int per_block = Q::block / Q::group;
  const std::vector<py::ssize_t> by_group = {blocks.count, per_block};
  py::array_t<float> scale(by_group), min(by_group);
  py::array_t<uint8_t> codes({blocks.count, int64_t{per_block}, int64_t{Q::group}});
  py::array_t<uint8_t> values({blocks.count, int64_t{per_block}, int64_t{Q::group}});
  py::array_t<uint16_t> d(blocks.count), dmin(blocks.count);
  py::array_t<int8_t> scale_of(by_group);
  py::array_t<uint8_t> min_of(by_group);
  for (int64_t i = 0; i < blocks.count; ++i) {
    typename Q::Block b;
    memcpy(&b, blocks.data + i * static_cast<int64_t>(sizeof(b)), sizeof(b));
    for (int g = 0; g < per_block; ++g) {
      const quant::ScaleMin s = quant::scale_min<Q>(b, g);
      scale.mutable_at(i, g) = s.scale;
      min.mutable_at(i, g) = s.min;
      Q::codes(b, g, codes.mutable_data(i, g, 0));
      quant::values<Q>(b, g, values.mutable_data(i, g, 0));
    }
    if constexpr (Q::scales == quant::Scales::Super) {
      const quant::SuperScales s = Q::super(b);
      d.mutable_at(i) = s.d.bits;
      dmin.mutable_at(i) = s.dmin.bits;
      for (int g = 0; g < per_block; ++g) {
        scale_of.mutable_at(i, g) = s.scale[g];
        min_of.mutable_at(i, g) = s.min[g];
      }
    }
  }
  using namespace py::literals;
  py::dict out("scale"_a = scale, "min"_a = min, "codes"_a = codes, "values"_a = values);
  if (Q::scales == quant::Scales::Super) {
    out["d"] = d;
    out["dmin"] = dmin;
    out["scale_of"] = scale_of;
    out["min_of"] = min_of;
  }
  return out;
}

// Runs f.operator()<Q>() for a quantized type and returns its dict.
template <typename F>
py::dict of_quantized(const TypeInfo& type, F f) {
  py::dict out;
  if (!quant::visit(type.type, [&]<typename Q>() { out = f.template operator()<Q>(); }))
    fail("type '", type.name, "' has no groups: it is not quantized");
  return out;
}

py::array_t<uint16_t> to_half_bits(const Array<float>& x) {
  py::array_t<uint16_t> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); ++i) out.mutable_data()[i] = to_half(x.data()[i]).bits;
  return out;
}

py::array_t<uint8_t> quantize(const std::string& to, const std::string& from, const py::buffer& data,
                              int64_t cols, const std::optional<Array<float>>& importance, bool repair,
                              int threads) {
  const TypeInfo &type = weight_type(to), &source = weight_type(from);
  const Blocks blocks = blocks_of(source, data);
  const quantize::Rows rows{source.type,
                            {reinterpret_cast<const std::byte*>(blocks.data),
                             static_cast<size_t>(blocks.count) * static_cast<size_t>(source.bytes)},
                            cols};
  quantize::Options options;
  options.repair = repair;
  if (importance) options.importance = {importance->data(), static_cast<size_t>(importance->size())};
  py::array_t<uint8_t> out(quantize::quantized_bytes(type.type, rows));
  const std::span<std::byte> bytes(reinterpret_cast<std::byte*>(out.mutable_data()),
                                   static_cast<size_t>(out.size()));
  py::gil_scoped_release release;
  ThreadPool pool(threads);
  quantize::quantize(type.type, rows, options, pool, bytes);
  return out;
}

std::vector<std::string> written_types() {
  std::vector<std::string> names;
  for (const Type type : quantize::written_types()) names.emplace_back(type_info(type).name);
  return names;
}

}  // namespace

void bind_quant(py::module_& m) {
  m.def("quant_types", &weight_types,
        "Names of the types that weights may have: F32, F16, BF16 and quantized ones.");
  m.def("dequantize", &dequantize, py::arg("type"), py::arg("data"), py::arg("n"),
        "n weights of a type as float32 [n]. data: their bytes, contiguous. Throws PyllmError when sizes do "
        "not fit.");
  m.def("written_types", &written_types, "Names of the types that quantize() can write.");
  m.def(
      "quantize", &quantize, py::arg("type"), py::arg("source_type"), py::arg("data"), py::arg("columns"),
      py::arg("importance") = py::none(), py::arg("repair") = false, py::arg("threads") = 0,
      "Rows of `columns` weights, contiguous bytes of source_type, as the bytes of another type. importance: "
      "float32 [columns], how much a squared error counts there. repair: NaN and infinities become 0. The same "
      "bytes on every machine. Throws PyllmError: a type that cannot be written, columns that are no multiple "
      "of a block, the place of a weight that is not finite.");
  py::module_ testing = m.def_submodule("testing", "Parts of the core one by one, for tests.");
  testing.def(
      "quant_contract",
      [](const std::string& name) {
        return of_quantized(weight_type(name), []<typename Q>() { return contract<Q>(); });
      },
      py::arg("type"), "The constants of a quantized type.");
  testing.def(
      "quant_groups",
      [](const std::string& name, const py::buffer& data) {
        const TypeInfo& type = weight_type(name);
        return of_quantized(type, [&]<typename Q>() { return groups<Q>(blocks_of(type, data)); });
      },
      py::arg("type"), py::arg("data"), "Scales, mins and codes of every group of 16 or 32 weights.");
  testing.def("to_half", &to_half_bits, py::arg("x"), "float32 rounded to half, as uint16 bits, flat.");
}

}  // namespace pyllm::python
