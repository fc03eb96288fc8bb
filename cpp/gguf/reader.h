// GGUF files, versions 2 and 3, whole or split: memory-mapped, and every number in the header checked
// against the file's size before it is used. Source: the GGUF specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/type.h"
#include "gguf/mapping.h"

namespace pyllm::gguf {

enum class ValueType : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };

// One metadata value, as a view into the mapped file. Scalars are `count` 1.
struct Value {
  ValueType type;  // of the elements, when it is an array
  bool is_array = false;
  uint64_t count = 1;
  // The elements as stored: numbers unaligned, a string as its 8-byte length and bytes, an array as its
  // 4-byte element type, 8-byte length and elements.
  std::span<const std::byte> bytes;
};

std::vector<std::string_view> split_strings(const Value& value);  // of type String, array or not
std::vector<Value> split_arrays(const Value& value);              // an array of arrays

struct TensorInfo {
  std::string_view name;
  Type type;
  std::vector<uint64_t> shape;      // fastest-varying first, as in the file: a matrix is [columns, rows]
  std::span<const std::byte> data;  // in the mapping; its size follows from type and shape
  int file = 0;                     // which part of a split model holds it
  uint64_t offset = 0;              // of its data from the start of that file
  uint64_t elements() const;
};

class File {
 public:
  // Opens `path` (any part of a split model opens all). Throws Error naming field, expected and found.
  // The file must not shrink while it is open: touching a page that is gone ends the process.
  explicit File(const std::string& path);
  // A model already in memory, its parts in order; the bytes must outlive the File. `name` is for errors.
  static File from_memory(const std::vector<std::span<const std::byte>>& parts, const std::string& name);
  ~File();
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;

  const std::string& path() const;                // as it was given
  const std::vector<std::string>& paths() const;  // of all parts; TensorInfo::file is an index
  uint32_t version() const;
  uint64_t alignment() const;
  uint64_t file_bytes() const;                   // all parts together
  std::vector<FileIdentity> identities() const;  // of all parts; none for bytes in memory

  const std::vector<std::string_view>& keys() const;  // in file order
  const Value* find(std::string_view key) const;      // nullptr when absent
  const std::vector<TensorInfo>& tensors() const;     // in file order, parts one after another
  const TensorInfo* find_tensor(std::string_view name) const;
  // From now on the tensor has this type and these bytes, which `owner` keeps alive: a file with other weights
  // without writing one. Throws Error when there is no such tensor or the size does not fit. Not for files in
  // use.
  void replace(std::string_view name, Type type, std::span<const std::byte> data, std::shared_ptr<void> owner);
  // The tensor's data will not be needed soon: gives its pages back to the system, which reads them again when
  // touched.
  void forget(const TensorInfo& tensor) const;

  // Typed reading. The plain form throws Error when the key is absent; all throw when the type does not fit
  // (any integer type for integers, any numeric type for numbers, in `numbers` booleans too).
  int64_t integer(std::string_view key) const;
  std::optional<int64_t> maybe_integer(std::string_view key) const;
  double number(std::string_view key) const;
  std::optional<double> maybe_number(std::string_view key) const;
  std::optional<bool> maybe_boolean(std::string_view key) const;
  std::string_view string(std::string_view key) const;
  std::optional<std::string_view> maybe_string(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;  // an array of strings
  std::vector<double> numbers(std::string_view key) const;            // an array, or a scalar as one element

 private:
  struct Impl;
  explicit File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pyllm::gguf
