#include "python/module.h"

namespace pyllm::python {

void bind_ops(py::module_&) {}

}  // namespace pyllm::python
