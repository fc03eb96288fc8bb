// What the elements of the KV cache are.
#pragma once

#include <string_view>

namespace pyllm {

enum class KvType {
  F16,
  Q8_0,  // 8 bits, and a half per 32 elements
  Q4_0,  // 4 bits, and a half per 32 elements; keys and values are rotated first
};

// "f16", "q8_0" or "q4_0". Throws Error for another name.
KvType kv_type_named(std::string_view name);

}  // namespace pyllm
