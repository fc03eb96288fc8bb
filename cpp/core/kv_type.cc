#include "core/kv_type.h"

#include "core/error.h"

namespace pyllm {

KvType kv_type_named(std::string_view name) {
  if (name == "f16") return KvType::F16;
  if (name == "q8_0") return KvType::Q8_0;
  if (name == "q4_0") return KvType::Q4_0;
  fail("kv_type: expected f16, q8_0 or q4_0, got ", name);
}

}  // namespace pyllm
