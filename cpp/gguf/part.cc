#include "gguf/part.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/utf8.h"
#include "gguf/cursor.h"
#include "gguf/value.h"

namespace pyllm::gguf {
namespace {

// Far above any real model (the largest have 75,000 tensors); they bound time and memory on a hostile header.
constexpr uint64_t kMaxKeys = 65'536;
constexpr uint64_t kMaxTensors = 131'072;
constexpr uint64_t kMaxElements = uint64_t{1} << 24;  // of an array in the metadata
constexpr int kMaxNesting = 4;                        // arrays in arrays

// From the specification.
constexpr uint64_t kMaxKeyBytes = 65'535;
constexpr uint64_t kMaxTensorNameBytes = 64;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;

uint32_t swap_bytes(uint32_t x) { return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24; }

uint32_t read_version(Cursor& in) {
  const std::span<const std::byte> magic = in.take(std::min<uint64_t>(4, in.left()), "magic");
  const std::string_view found(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (found != "GGUF")
    fail(in.name(), ": not a GGUF file: expected it to begin with GGUF, found \"", printable(found), "\"");
  const auto version = in.read<uint32_t>("version");
  const uint32_t swapped = swap_bytes(version);
  if (swapped == 2 || swapped == 3)
    fail(in.name(), ": version: expected 2 or 3 in little-endian order, found ", swapped,
         " in big-endian order; big-endian files must be converted first");
  if (version != 2 && version != 3) fail(in.name(), ": version: expected 2 or 3, found ", version);
  return version;
}

ValueType read_value_type(Cursor& in, std::string_view key) {
  const auto type = in.read<uint32_t>(key, " type");
  if (type >= kValueTypeCount)
    fail(in.name(), ": ", key, ": value type: expected 0 to ", kValueTypeCount - 1, ", found ", type);
  return static_cast<ValueType>(type);
}

Value read_value(Cursor& in, std::string_view key, ValueType type, int depth);

// `count` values of `type`, one after another.
std::span<const std::byte> read_elements(Cursor& in, std::string_view key, ValueType type, uint64_t count,
                                         int depth) {
  if (const uint64_t size = value_type_info(type).bytes) {
    const auto bytes = in.take(count * size, key);  // count <= kMaxElements: no overflow
    if (type == ValueType::Bool)
      for (const std::byte b : bytes)
        if (b > std::byte{1})
          fail(in.name(), ": ", key, ": bool: expected 0 or 1, found ", static_cast<int>(b));
    return bytes;
  }
  const uint64_t smallest = type == ValueType::String ? 8 : 12;
  if (count > in.left() / smallest)
    fail(in.name(), ": ", key, ": array length: expected at most ", in.left() / smallest,
         " for what is left of the file, found ", count);
  Cursor start = in;
  for (uint64_t i = 0; i < count; ++i) {
    if (type == ValueType::String)
      in.string(key);
    else
      read_value(in, key, ValueType::Array, depth + 1);
  }
  return start.take(in.position() - start.position(), key);
}

Value read_value(Cursor& in, std::string_view key, ValueType type, int depth) {
  if (type != ValueType::Array) return {type, false, 1, read_elements(in, key, type, 1, depth)};
  if (depth == kMaxNesting)
    fail(in.name(), ": ", key, ": expected arrays nested at most ", kMaxNesting, " deep");
  const ValueType element = read_value_type(in, key);
  const auto count = in.read<uint64_t>(key, " array length");
  if (count > kMaxElements)
    fail(in.name(), ": ", key, ": array length: expected at most ", kMaxElements, ", found ", count);
  return {element, true, count, read_elements(in, key, element, count, depth)};
}

void read_metadata(Cursor& in, uint64_t count, Part& part) {
  part.keys.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto length = in.read<uint64_t>("metadata key ", i, " length");
    if (length == 0 || length > kMaxKeyBytes)
      fail(in.name(), ": metadata key ", i, " length: expected 1 to ", kMaxKeyBytes, ", found ", length);
    const auto bytes = in.take(length, "metadata key ", i);
    const std::string_view key(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!is_name(key))
      fail(in.name(), ": metadata key ", i, ": expected printable UTF-8, found \"", printable(key), "\"");
    const std::string shown = printable(key);
    const ValueType type = read_value_type(in, shown);
    const Value value = read_value(in, shown, type, 0);
    if (!part.values.emplace(key, value).second)
      fail(in.name(), ": ", shown, ": expected each metadata key once, found it again as key ", i);
    part.keys.push_back(key);
  }
}

uint64_t alignment_of(std::string_view name, const Values& values) {
  const auto found = values.find("general.alignment");
  if (found == values.end()) return kDefaultAlignment;
  const Value& value = found->second;
  if (value.type != ValueType::U32 || value.is_array)
    fail(name, ": general.alignment: expected u32, found ", describe(value));
  uint32_t alignment;
  memcpy(&alignment, value.bytes.data(), sizeof(alignment));
  if (alignment == 0 || alignment % 8 != 0)
    fail(name, ": general.alignment: expected a multiple of 8, found ", alignment);
  return alignment;
}

// A tensor whose data is still to be found: offset counts from the data section.
TensorInfo read_tensor(Cursor& in, uint64_t index) {
  TensorInfo tensor;
  const auto length = in.read<uint64_t>("tensor ", index, " name length");
  if (length == 0 || length > kMaxTensorNameBytes)
    fail(in.name(), ": tensor ", index, " name length: expected 1 to ", kMaxTensorNameBytes, ", found ",
         length);
  const auto bytes = in.take(length, "tensor ", index, " name");
  tensor.name = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  if (!is_name(tensor.name))
    fail(in.name(), ": tensor ", index, " name: expected printable UTF-8, found \"", printable(tensor.name),
         "\"");

  const auto dimensions = in.read<uint32_t>(tensor.name, " dimension count");
  if (dimensions == 0 || dimensions > kMaxDimensions)
    fail(in.name(), ": ", tensor.name, ": dimension count: expected 1 to ", kMaxDimensions, ", found ",
         dimensions);
  uint64_t elements = 1;
  tensor.shape.reserve(dimensions);
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = in.read<uint64_t>(tensor.name, " dimension ", d);
    if (size == 0) fail(in.name(), ": ", tensor.name, ": dimension ", d, ": expected at least 1, found 0");
    if (size > std::numeric_limits<int64_t>::max() / elements)
      fail(in.name(), ": ", tensor.name, ": dimension ", d,
           ": expected a tensor of fewer than 2^63 elements, found ", elements, " times ", size);
    elements *= size;
    tensor.shape.push_back(size);
  }

  const auto number = in.read<uint32_t>(tensor.name, " type");
  const TypeInfo* type = type_info(number);
  if (type == nullptr)
    fail(in.name(), ": ", tensor.name, ": type: expected a known tensor type, found number ", number,
         "; the file may need a newer pyllm or be damaged");
  tensor.type = type->type;
  if (tensor.shape[0] % type->block != 0)
    fail(in.name(), ": ", tensor.name, ": dimension 0: expected a multiple of ", type->block, " for type ",
         type->name, ", found ", tensor.shape[0]);
  tensor.offset = in.read<uint64_t>(tensor.name, " offset");
  return tensor;
}

// Turns the tensor's offset into one from the start of the file and finds its data.
void locate(TensorInfo& tensor, std::string_view name, std::span<const std::byte> file, uint64_t data_start,
            uint64_t alignment) {
  if (tensor.offset % alignment != 0)
    fail(name, ": ", tensor.name, ": offset: expected a multiple of the alignment ", alignment, ", found ",
         tensor.offset);
  const TypeInfo& type = type_info(tensor.type);
  const uint64_t available = file.size() - std::min<uint64_t>(file.size(), data_start);
  const uint64_t blocks = tensor.elements() / type.block;
  if (tensor.offset > available || blocks > (available - tensor.offset) / type.bytes)
    fail(name, ": ", tensor.name, ": expected ", blocks, " blocks of ", type.bytes, " bytes at offset ",
         tensor.offset, " of the data section, found a data section of ", available,
         " bytes; the file is truncated or damaged");
  tensor.offset += data_start;
  tensor.data = file.subspan(tensor.offset, blocks * type.bytes);
}

uint64_t align_up(uint64_t offset, uint64_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

void read_tensors(Cursor& in, uint64_t count, std::span<const std::byte> file, Part& part) {
  part.tensors.reserve(count);
  for (uint64_t i = 0; i < count; ++i) part.tensors.push_back(read_tensor(in, i));
  const uint64_t data_start = align_up(in.position(), part.alignment);
  uint64_t data_end = 0;
  for (TensorInfo& tensor : part.tensors) {
    locate(tensor, in.name(), file, data_start, part.alignment);
    data_end = std::max(data_end, tensor.offset + tensor.data.size());
  }
  // Some writers leave out the padding after the last tensor; none stops in the middle of it.
  const uint64_t padded = align_up(data_end, part.alignment);
  if (file.size() > data_end && file.size() < padded)
    fail(in.name(), ": data section: expected ", padded, " bytes with its padding, found ", file.size(),
         "; the file is truncated");
}

}  // namespace

Part parse_part(std::string_view name, std::span<const std::byte> bytes, bool mapped) {
  Cursor in(name, bytes, mapped);
  Part part;
  part.version = read_version(in);
  const auto tensors = in.read<uint64_t>("tensor count");
  const auto keys = in.read<uint64_t>("metadata count");
  // The smallest tensor takes 33 bytes of header, the smallest metadata entry 14.
  const uint64_t most_tensors = std::min(kMaxTensors, in.left() / 33);
  const uint64_t most_keys = std::min(kMaxKeys, in.left() / 14);
  if (tensors > most_tensors)
    fail(name, ": tensor count: expected at most ", most_tensors, " for a file of this size, found ", tensors);
  if (keys > most_keys)
    fail(name, ": metadata count: expected at most ", most_keys, " for a file of this size, found ", keys);
  read_metadata(in, keys, part);
  part.alignment = alignment_of(name, part.values);
  read_tensors(in, tensors, bytes, part);
  return part;
}

std::vector<Value> split_arrays(const Value& value) {
  Cursor in("array", value.bytes, false);
  std::vector<Value> out;
  out.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) out.push_back(read_value(in, "element", ValueType::Array, 0));
  return out;
}

}  // namespace pyllm::gguf
