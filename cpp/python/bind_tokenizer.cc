#include "python/module.h"

namespace pyllm::python {

void bind_tokenizer(py::module_&) {}

}  // namespace pyllm::python
