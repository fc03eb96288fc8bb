#include "python/module.h"

namespace pyllm::python {

void bind_gguf(py::module_&) {}

}  // namespace pyllm::python
