// GgufFile: the reader for Python. Strings that are not UTF-8 keep their bytes as surrogate escapes.
#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "gguf/reader.h"
#include "python/module.h"

namespace pyllm::python {
namespace {

using gguf::File;
using gguf::Value;
using gguf::ValueType;

// A tensor's entry together with the file that its views point into.
struct Tensor {
  std::shared_ptr<File> file;
  const gguf::TensorInfo* info;
};

py::str to_str(std::string_view text) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

py::object to_path(const std::string& path) {
  return py::module_::import("os").attr("fsdecode")(py::bytes(path));
}

// Numbers are copied out of the mapping: there they may be unaligned.
const char* numpy_name(ValueType type) {
  switch (type) {
    case ValueType::U8:
      return "uint8";
    case ValueType::I8:
      return "int8";
    case ValueType::U16:
      return "uint16";
    case ValueType::I16:
      return "int16";
    case ValueType::U32:
      return "uint32";
    case ValueType::I32:
      return "int32";
    case ValueType::U64:
      return "uint64";
    case ValueType::I64:
      return "int64";
    case ValueType::F32:
      return "float32";
    case ValueType::F64:
      return "float64";
    case ValueType::Bool:
      return "bool";
    case ValueType::String:
    case ValueType::Array:
      break;
  }
  return nullptr;
}

template <typename T>
T element(const Value& value, uint64_t i) {
  T x;
  std::memcpy(&x, value.bytes.data() + i * sizeof(T), sizeof(T));
  return x;
}

py::object number(const Value& value, uint64_t i) {
  switch (value.type) {
    case ValueType::U8:
      return py::int_(element<uint8_t>(value, i));
    case ValueType::I8:
      return py::int_(element<int8_t>(value, i));
    case ValueType::U16:
      return py::int_(element<uint16_t>(value, i));
    case ValueType::I16:
      return py::int_(element<int16_t>(value, i));
    case ValueType::U32:
      return py::int_(element<uint32_t>(value, i));
    case ValueType::I32:
      return py::int_(element<int32_t>(value, i));
    case ValueType::U64:
      return py::int_(element<uint64_t>(value, i));
    case ValueType::I64:
      return py::int_(element<int64_t>(value, i));
    case ValueType::F32:
      return py::float_(element<float>(value, i));
    case ValueType::F64:
      return py::float_(element<double>(value, i));
    case ValueType::Bool:
      return py::bool_(element<uint8_t>(value, i) != 0);
    case ValueType::String:
    case ValueType::Array:
      break;
  }
  return py::none();
}

py::object to_python(const Value& value) {
  if (value.type == ValueType::String) {
    const auto strings = gguf::split_strings(value);
    if (!value.is_array) return to_str(strings[0]);
    py::list out(strings.size());
    for (size_t i = 0; i < strings.size(); ++i) out[i] = to_str(strings[i]);
    return out;
  }
  if (value.type == ValueType::Array) {
    py::list out;
    for (const Value& inner : gguf::split_arrays(value)) out.append(to_python(inner));
    return out;
  }
  if (!value.is_array) return number(value, 0);
  return py::array(py::dtype(numpy_name(value.type)), {static_cast<py::ssize_t>(value.count)},
                   value.bytes.data());
}

py::object get(const File& file, std::string_view key, py::object otherwise) {
  const Value* value = file.find(key);
  return value == nullptr ? otherwise : to_python(*value);
}

// As the file has it: (type, none), or ("ARRAY", type of the elements). The names are the gguf package's.
py::tuple value_type(const File& file, std::string_view key) {
  static constexpr const char* names[] = {"UINT8", "INT8",   "UINT16", "INT16",  "UINT32", "INT32",  "FLOAT32",
                                          "BOOL",  "STRING", "ARRAY",  "UINT64", "INT64",  "FLOAT64"};
  const Value* value = file.find(key);
  if (value == nullptr) fail(file.path(), ": ", key, ": the file has no such key");
  const char* name = names[static_cast<size_t>(value->type)];
  if (value->is_array || value->type == ValueType::Array)
    return py::make_tuple("ARRAY", value->is_array ? name : "ARRAY");
  return py::make_tuple(name, py::none());
}

// Arrays of numbers as a plain list: numpy takes longer to import than all of this takes.
py::object numbers(const File& file, std::string_view key) {
  const Value* value = file.find(key);
  if (value == nullptr) return py::none();
  if (!value->is_array || value->type == ValueType::String || value->type == ValueType::Array)
    fail(key, ": expected an array of numbers");
  py::list out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) out[i] = number(*value, i);
  return out;
}

py::list string_bytes(const File& file, std::string_view key) {
  const auto strings = file.strings(key);
  py::list out(strings.size());
  for (size_t i = 0; i < strings.size(); ++i) out[i] = py::bytes(strings[i]);
  return out;
}

py::array_t<uint8_t> tensor_data(const std::shared_ptr<File>& file, const std::string& name) {
  const gguf::TensorInfo* info = file->find_tensor(name);
  if (info == nullptr) fail(file->path(), ": ", name, ": the file has no such tensor");
  // The file as the array's base: the mapping lives as long as the view.
  py::array_t<uint8_t> view({static_cast<py::ssize_t>(info->data.size())},
                            reinterpret_cast<const uint8_t*>(info->data.data()), py::cast(file));
  view.attr("flags").attr("writeable") = false;
  return view;
}

void replace(File& file, const std::string& name, const std::string& type_name,
             const py::array_t<uint8_t, py::array::c_style>& data) {
  const auto found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const TypeInfo& info) { return info.name == type_name; });
  if (found == std::end(kTypes)) fail("unknown tensor type ", type_name);
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data.data()),
                                         static_cast<size_t>(data.size()));
  const std::shared_ptr<void> owner(new py::array(data), [](void* held) {
    const py::gil_scoped_acquire gil;
    delete static_cast<py::array*>(held);
  });
  file.replace(name, found->type, bytes, owner);
}

}  // namespace

void bind_gguf(py::module_& m) {
  py::class_<Tensor>(m, "TensorInfo", "One tensor of a GGUF file: what it is and where it lies.")
      .def_property_readonly("name", [](const Tensor& t) { return to_str(t.info->name); })
      .def_property_readonly(
          "type", [](const Tensor& t) { return type_info(t.info->type).name; },
          "Name of the element type, such as 'Q4_K'.")
      .def_property_readonly(
          "shape", [](const Tensor& t) { return py::tuple(py::cast(t.info->shape)); },
          "Sizes, fastest-varying first: a matrix is (columns, rows).")
      .def_property_readonly("n_bytes", [](const Tensor& t) { return t.info->data.size(); })
      .def_property_readonly(
          "offset", [](const Tensor& t) { return t.info->offset; },
          "Of its data from the start of its file, in bytes.")
      .def_property_readonly(
          "file", [](const Tensor& t) { return t.info->file; }, "Which of GgufFile.paths holds it.")
      .def("__repr__", [](const Tensor& t) {
        return py::str("TensorInfo({!r}, {}, {})")
            .format(to_str(t.info->name), type_info(t.info->type).name, py::tuple(py::cast(t.info->shape)));
      });

  py::class_<File, std::shared_ptr<File>>(m, "GgufFile",
                                          "A GGUF file, memory-mapped; of a split model, all parts.")
      .def(py::init([](const py::object& path) {
             const std::string name = py::module_::import("os").attr("fsencode")(path).cast<py::bytes>();
             py::gil_scoped_release release;
             return std::make_shared<File>(name);
           }),
           py::arg("path"),
           "Open `path`; any part of a split model opens all. Raises PyllmError for a bad file.")
      .def_property_readonly("path", [](const File& file) { return to_path(file.path()); })
      .def_property_readonly("paths",
                             [](const File& file) {
                               py::list out;
                               for (const std::string& path : file.paths()) out.append(to_path(path));
                               return out;
                             })
      .def_property_readonly("version", &File::version)
      .def_property_readonly("alignment", &File::alignment)
      .def_property_readonly("file_bytes", &File::file_bytes, "Size of all parts together.")
      .def_property_readonly(
          "identities",
          [](const File& file) {
            py::list out;
            for (const gguf::FileIdentity& i : file.identities())
              out.append(py::make_tuple(i.device, i.inode, i.size, i.modified_ns, i.changed_ns));
            return out;
          },
          "(device, inode, size, mtime_ns, ctime_ns) of every part when it was opened.")
      .def("keys",
           [](const File& file) {
             py::list out;
             for (const std::string_view key : file.keys()) out.append(to_str(key));
             return out;
           })
      .def("__contains__", [](const File& file, std::string_view key) { return file.find(key) != nullptr; })
      .def("get", &get, py::arg("key"), py::arg("default") = py::none(),
           "The metadata value: a bool, int, float or str, a numpy array, or a list for arrays of strings or "
           "arrays.")
      .def("value_type", &value_type, py::arg("key"), "(type, None), or ('ARRAY', type of the elements).")
      .def("numbers", &numbers, py::arg("key"), "An array of numbers as a list; None when the key is absent.")
      .def("string_bytes", &string_bytes, py::arg("key"), "An array of strings as they are stored.")
      .def_property_readonly("tensors",
                             [](const std::shared_ptr<File>& file) {
                               py::list out;
                               for (const gguf::TensorInfo& info : file->tensors())
                                 out.append(Tensor{file, &info});
                               return out;
                             })
      .def("tensor_data", &tensor_data, py::arg("name"),
           "The tensor's bytes as stored: a read-only view, uint8 [n_bytes].")
      .def(
          "replace", &replace, py::arg("name"), py::arg("type"), py::arg("data"),
          "From now on the tensor has this type and these bytes, a uint8 array that is not copied: a model "
          "with "
          "other weights without a file of them. Before a model is loaded from it. Raises PyllmError for sizes "
          "that do not fit.");
}

}  // namespace pyllm::python
