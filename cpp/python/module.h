#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace pyllm::python {

void bind_gguf(py::module_& m);       // GgufFile
void bind_quant(py::module_& m);      // dequantize, quant types
void bind_tokenizer(py::module_& m);  // merge preparation for vocabularies
void bind_ops(py::module_& m);        // kernels one by one, for tests; instruction sets; ceilings
void bind_sampler(py::module_& m);    // SamplingParams; testing.Sampler
void bind_packed(py::module_& m);
void bind_engine(py::module_& m);       // Model, Engine, Event
void bind_device(py::module_& m);       // devices and memory planning
void bind_fake_model(py::module_& m);   // testing.fake_model
void bind_fake_device(py::module_& m);  // testing.fake_devices

}  // namespace pyllm::python
