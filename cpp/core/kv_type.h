// What the elements of the KV cache are.
#pragma once

#include <string_view>

namespace pyllm {

enum class KvElement {
  Half,
  Bits8,  // and a half per 32 elements
  Bits6,  // likewise; vectors are rotated first; only of keys
  Bits4,  // likewise
};

struct KvType {
  KvElement keys = KvElement::Half, values = KvElement::Half;
};

// "f16", "q8_0", "q8_q4" (keys in 8 bits, values in 4), "q6_q4" or "q4_0". Throws Error for another name.
KvType kv_type_named(std::string_view name);

}  // namespace pyllm
