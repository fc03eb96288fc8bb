// What the metadata's value types are called, how large they are and what they hold.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/reader.h"

namespace pyllm::gguf {

struct ValueTypeInfo {
  const char* name;
  uint64_t bytes;  // of one value; 0 when that depends on the value
};

inline constexpr ValueTypeInfo kValueTypes[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};
inline constexpr uint32_t kValueTypeCount = std::size(kValueTypes);

inline const ValueTypeInfo& value_type_info(ValueType type) { return kValueTypes[static_cast<uint32_t>(type)]; }

// "u32" or "an array of 3 string", for errors.
std::string describe(const Value& value);

// The value as a C++ type; false when its type does not fit (see File's typed reading).
bool as_integer(const Value& value, int64_t* out);
bool as_number(const Value& value, double* out);
bool as_boolean(const Value& value, bool* out);
bool as_string(const Value& value, std::string_view* out);
bool as_strings(const Value& value, std::vector<std::string_view>* out);
bool as_numbers(const Value& value, std::vector<double>* out);

}  // namespace pyllm::gguf
