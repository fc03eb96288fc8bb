#include "python/module.h"

namespace pyllm::python {

void bind_quant(py::module_&) {}

}  // namespace pyllm::python
