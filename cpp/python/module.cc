// pyllm._core: the C++ engine for Python. The only folder that includes pybind11.
#include "python/module.h"

#include <cstring>

#include "core/error.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of pyllm: GGUF reader, quantized kernels, models and engine.";
  // Errors for users become pyllm.errors.PyllmError; anything else is a bug and stays a RuntimeError.
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const pyllm::Error& error) {
      // A message may quote a file's bytes: what is not UTF-8 is shown as \xNN.
      const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
          error.what(), static_cast<Py_ssize_t>(strlen(error.what())), "backslashreplace"));
      py::set_error(py::module_::import("pyllm.errors").attr("PyllmError"), text);
    }
  });
  pyllm::python::bind_gguf(m);
  pyllm::python::bind_quant(m);
  pyllm::python::bind_tokenizer(m);
  pyllm::python::bind_ops(m);
  pyllm::python::bind_sampler(m);
  pyllm::python::bind_packed(m);
  pyllm::python::bind_engine(m);
  pyllm::python::bind_device(m);
  pyllm::python::bind_fake_model(m);
  pyllm::python::bind_fake_device(m);
}
