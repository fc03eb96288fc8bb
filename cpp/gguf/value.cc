#include "gguf/value.h"

#include <cstring>
#include <limits>

#include "core/error.h"

namespace pyllm::gguf {
namespace {

template <typename T>
T load(const std::byte* at) {
  T value;
  memcpy(&value, at, sizeof(T));
  return value;
}

// Element i of a numeric or boolean value as a T; false when the type is not numeric.
template <typename T>
bool number_at(const Value& value, uint64_t i, T* out) {
  const std::byte* at = value.bytes.data() + i * value_type_info(value.type).bytes;
  switch (value.type) {
    case ValueType::Bool:
    case ValueType::U8:
      *out = static_cast<T>(load<uint8_t>(at));
      return true;
    case ValueType::I8:
      *out = static_cast<T>(load<int8_t>(at));
      return true;
    case ValueType::U16:
      *out = static_cast<T>(load<uint16_t>(at));
      return true;
    case ValueType::I16:
      *out = static_cast<T>(load<int16_t>(at));
      return true;
    case ValueType::U32:
      *out = static_cast<T>(load<uint32_t>(at));
      return true;
    case ValueType::I32:
      *out = static_cast<T>(load<int32_t>(at));
      return true;
    case ValueType::U64:
      *out = static_cast<T>(load<uint64_t>(at));
      return true;
    case ValueType::I64:
      *out = static_cast<T>(load<int64_t>(at));
      return true;
    case ValueType::F32:
      *out = static_cast<T>(load<float>(at));
      return true;
    case ValueType::F64:
      *out = static_cast<T>(load<double>(at));
      return true;
    case ValueType::String:
    case ValueType::Array:
      return false;
  }
  return false;
}

bool is_float(ValueType type) { return type == ValueType::F32 || type == ValueType::F64; }

}  // namespace

std::string describe(const Value& value) {
  const char* name = value_type_info(value.type).name;
  return value.is_array ? message("an array of ", value.count, " ", name) : name;
}

std::vector<std::string_view> split_strings(const Value& value) {
  std::vector<std::string_view> out;
  out.reserve(value.count);
  const auto* at = reinterpret_cast<const char*>(value.bytes.data());
  for (uint64_t i = 0; i < value.count; ++i) {
    uint64_t length;
    memcpy(&length, at, sizeof(length));
    out.emplace_back(at + sizeof(length), length);
    at += sizeof(length) + length;
  }
  return out;
}

bool as_integer(const Value& value, int64_t* out) {
  if (value.is_array || is_float(value.type) || value.type == ValueType::Bool) return false;
  if (value.type == ValueType::U64 && load<uint64_t>(value.bytes.data()) > std::numeric_limits<int64_t>::max())
    return false;
  return number_at(value, 0, out);
}

bool as_number(const Value& value, double* out) {
  return !value.is_array && value.type != ValueType::Bool && number_at(value, 0, out);
}

bool as_boolean(const Value& value, bool* out) {
  return !value.is_array && value.type == ValueType::Bool && number_at(value, 0, out);
}

bool as_string(const Value& value, std::string_view* out) {
  if (value.is_array || value.type != ValueType::String) return false;
  *out = split_strings(value)[0];
  return true;
}

bool as_strings(const Value& value, std::vector<std::string_view>* out) {
  if (!value.is_array || value.type != ValueType::String) return false;
  *out = split_strings(value);
  return true;
}

bool as_numbers(const Value& value, std::vector<double>* out) {
  if (value.type == ValueType::String || value.type == ValueType::Array) return false;
  out->resize(value.count);
  for (uint64_t i = 0; i < value.count; ++i) number_at(value, i, &(*out)[i]);
  return true;
}

}  // namespace pyllm::gguf
