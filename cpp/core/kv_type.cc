#include "core/kv_type.h"

#include "core/error.h"

namespace pyllm {

KvType kv_type_named(std::string_view name) {
  if (name == "f16") return {KvElement::Half, KvElement::Half};
  if (name == "q8_0") return {KvElement::Bits8, KvElement::Bits8};
  if (name == "q8_q4") return {KvElement::Bits8, KvElement::Bits4};
  if (name == "q6_q4") return {KvElement::Bits6, KvElement::Bits4};
  if (name == "q4_0") return {KvElement::Bits4, KvElement::Bits4};
  fail("kv_type: expected f16, q8_0, q8_q4, q6_q4 or q4_0, got ", name);
}

}  // namespace pyllm
