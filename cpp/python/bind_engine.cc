#include "python/module.h"

namespace pyllm::python {

void bind_engine(py::module_&) {}

}  // namespace pyllm::python
