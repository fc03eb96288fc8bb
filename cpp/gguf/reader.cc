#include "gguf/reader.h"

#include <bit>
#include <functional>
#include <map>

#include "core/error.h"
#include "core/utf8.h"
#include "gguf/mapping.h"
#include "gguf/part.h"
#include "gguf/split.h"
#include "gguf/value.h"

namespace pyllm::gguf {

static_assert(std::endian::native == std::endian::little, "values are read as they lie in the file");

uint64_t TensorInfo::elements() const {
  uint64_t product = 1;
  for (const uint64_t size : shape) product *= size;
  return product;
}

struct File::Impl {
  std::string path;
  std::string shown;  // for errors
  std::vector<std::string> paths;
  std::vector<Mapping> mappings;
  uint32_t version = 0;
  uint64_t alignment = 0;
  uint64_t file_bytes = 0;
  std::vector<std::string_view> keys;
  Values values;
  std::vector<TensorInfo> tensors;
  std::map<std::string_view, size_t> tensor_index;  // ordered for the same reason as Values
  std::vector<std::shared_ptr<void>> owners;        // of replaced tensors' data

  // Metadata is the first part's; tensors are everyone's.
  void join(std::vector<Part> parts) {
    check_parts(parts, paths);
    version = parts[0].version;
    alignment = parts[0].alignment;
    keys = std::move(parts[0].keys);
    values = std::move(parts[0].values);
    for (size_t i = 0; i < parts.size(); ++i)
      for (TensorInfo& tensor : parts[i].tensors) {
        tensor.file = static_cast<int>(i);
        if (!tensor_index.emplace(tensor.name, tensors.size()).second)
          fail(printable(paths[i], 4096), ": ", tensor.name, ": expected each tensor once, found it again");
        tensors.push_back(std::move(tensor));
      }
  }

  // The value of `key` as T by `read`, which returns false when the type does not fit.
  template <typename T, typename Read>
  std::optional<T> maybe(std::string_view key, const char* expected, Read read) const {
    const auto found = values.find(key);
    if (found == values.end()) return std::nullopt;
    T out{};
    if (!read(found->second, &out))
      fail(shown, ": ", key, ": expected ", expected, ", found ", describe(found->second));
    return out;
  }

  template <typename T>
  T require(std::optional<T> value, std::string_view key) const {
    if (!value) fail(shown, ": ", key, ": this metadata key is missing");
    return *std::move(value);
  }
};

File::File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

File::File(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->shown = printable(path, 4096);
  const auto open = [&](const std::string& part) {
    const Mapping& mapping = impl_->mappings.emplace_back(part);
    impl_->file_bytes += mapping.bytes().size();
    return parse_part(printable(part, 4096), mapping.bytes(), true);
  };
  Part first = open(path);
  impl_->paths = part_paths(path, first.values);
  std::vector<Part> parts;
  for (const std::string& part : impl_->paths) parts.push_back(part == path ? std::move(first) : open(part));
  impl_->join(std::move(parts));
}

File File::from_memory(const std::vector<std::span<const std::byte>>& parts, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->path = name;
  impl->shown = printable(name, 4096);
  impl->paths.assign(parts.size(), name);
  std::vector<Part> parsed;
  for (const auto bytes : parts) {
    parsed.push_back(parse_part(impl->shown, bytes, false));
    impl->file_bytes += bytes.size();
  }
  impl->join(std::move(parsed));
  return File(std::move(impl));
}

File::~File() = default;
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;

const std::string& File::path() const { return impl_->path; }
const std::vector<std::string>& File::paths() const { return impl_->paths; }
uint32_t File::version() const { return impl_->version; }
uint64_t File::alignment() const { return impl_->alignment; }
uint64_t File::file_bytes() const { return impl_->file_bytes; }
std::vector<FileIdentity> File::identities() const {
  std::vector<FileIdentity> out;
  for (const Mapping& mapping : impl_->mappings) out.push_back(mapping.identity());
  return out;
}
const std::vector<std::string_view>& File::keys() const { return impl_->keys; }
const std::vector<TensorInfo>& File::tensors() const { return impl_->tensors; }

const Value* File::find(std::string_view key) const {
  const auto found = impl_->values.find(key);
  return found == impl_->values.end() ? nullptr : &found->second;
}

void File::replace(std::string_view name, Type type, std::span<const std::byte> data,
                   std::shared_ptr<void> owner) {
  const auto found = impl_->tensor_index.find(name);
  if (found == impl_->tensor_index.end()) fail(impl_->shown, ": ", name, ": there is no such tensor");
  TensorInfo& tensor = impl_->tensors[found->second];
  const auto block = static_cast<uint64_t>(type_info(type).block);
  const auto bytes = static_cast<uint64_t>(type_info(type).bytes);
  const uint64_t columns = tensor.shape.empty() ? 1 : tensor.shape[0];
  if (columns % block != 0 || data.size() != tensor.elements() / block * bytes)
    fail(name, ": ", data.size(), " bytes of ", type_info(type).name, " are not its ", tensor.elements(),
         " weights in rows of ", columns);
  tensor.type = type;
  tensor.data = data;
  impl_->owners.push_back(std::move(owner));
}

void File::forget(const TensorInfo& tensor) const {
  const auto file = static_cast<size_t>(tensor.file);
  if (file >= impl_->mappings.size()) return;  // the bytes are the caller's
  const std::span<const std::byte> all = impl_->mappings[file].bytes();
  const std::less_equal<> before;
  if (before(all.data(), tensor.data.data()) && before(tensor.data.data(), all.data() + all.size()))
    impl_->mappings[file].forget(tensor.data);  // not where it was replaced
}

const TensorInfo* File::find_tensor(std::string_view name) const {
  const auto found = impl_->tensor_index.find(name);
  return found == impl_->tensor_index.end() ? nullptr : &impl_->tensors[found->second];
}

std::optional<int64_t> File::maybe_integer(std::string_view key) const {
  return impl_->maybe<int64_t>(key, "an integer below 2^63", as_integer);
}
std::optional<double> File::maybe_number(std::string_view key) const {
  return impl_->maybe<double>(key, "a number", as_number);
}
std::optional<bool> File::maybe_boolean(std::string_view key) const {
  return impl_->maybe<bool>(key, "bool", as_boolean);
}
std::optional<std::string_view> File::maybe_string(std::string_view key) const {
  return impl_->maybe<std::string_view>(key, "string", as_string);
}
int64_t File::integer(std::string_view key) const { return impl_->require(maybe_integer(key), key); }
double File::number(std::string_view key) const { return impl_->require(maybe_number(key), key); }
std::string_view File::string(std::string_view key) const { return impl_->require(maybe_string(key), key); }
std::vector<std::string_view> File::strings(std::string_view key) const {
  return impl_->require(impl_->maybe<std::vector<std::string_view>>(key, "an array of strings", as_strings),
                        key);
}
std::vector<double> File::numbers(std::string_view key) const {
  return impl_->require(impl_->maybe<std::vector<double>>(key, "an array of numbers", as_numbers), key);
}

}  // namespace pyllm::gguf
