// One GGUF file's header: metadata and tensor table, every number checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "gguf/reader.h"

namespace pyllm::gguf {

// Ordered maps: keys chosen to collide would make a hash map quadratic.
using Values = std::map<std::string_view, Value>;

struct Part {
  uint32_t version = 0;
  uint64_t alignment = 0;
  std::vector<std::string_view> keys;  // in file order
  Values values;
  std::vector<TensorInfo> tensors;  // in file order
};

// `name` is for errors; `mapped`: `bytes` is a file's mapping. Throws Error naming field, expected and found.
Part parse_part(std::string_view name, std::span<const std::byte> bytes, bool mapped);

}  // namespace pyllm::gguf
