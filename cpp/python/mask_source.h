// A MaskSource whose streams and masks are made in Python.
#pragma once

#include <memory>
#include <stdexcept>
#include <utility>

#include "engine/mask_source.h"
#include "python/module.h"

namespace pyllm::python {

// Any Python object that is let go of on threads without the GIL.
class HeldObject {
 public:
  explicit HeldObject(py::object object) : object_(std::move(object)) {}
  ~HeldObject() {
    py::gil_scoped_acquire gil;
    object_ = py::object();
  }
  HeldObject(const HeldObject&) = delete;
  const py::object& get() const { return object_; }

 private:
  py::object object_;
};

struct PythonStream : MaskSource::Stream {
  explicit PythonStream(py::object object) : state(std::move(object)) {}
  HeldObject state;
};

// Calls fill(states, tokens, address, row_bytes) of a Python object, which returns one error text a job, "" for
// none. One call for all jobs of a step: on its way to the GIL each may have to wait.
class PythonMaskSource : public MaskSource {
 public:
  explicit PythonMaskSource(py::object source) : source_(std::move(source)) {}

  void fill(std::span<Job> jobs, std::span<uint32_t> masks) override {
    py::gil_scoped_acquire gil;
    try {
      py::list states, tokens;
      for (const Job& job : jobs) {
        states.append(static_cast<PythonStream*>(job.stream)->state.get());
        tokens.append(py::cast(job.tokens));
      }
      const auto address = reinterpret_cast<uintptr_t>(masks.data());
      const auto errors = source_.get()
                              .attr("fill")(states, tokens, address, masks.size_bytes() / jobs.size())
                              .cast<py::list>();
      if (errors.size() != jobs.size()) throw std::runtime_error("fill returned another number of errors");
      for (size_t i = 0; i < jobs.size(); ++i) jobs[i].error = errors[i].cast<std::string>();
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(error.what());
    }
  }

 private:
  HeldObject source_;
};

}  // namespace pyllm::python
