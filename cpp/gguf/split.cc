#include "gguf/split.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/utf8.h"
#include "gguf/value.h"

namespace pyllm::gguf {
namespace {

constexpr int64_t kMaxParts = 65'535;  // the field is a u16

// The metadata's integer `key`, or `otherwise` when it is absent.
int64_t integer_or(const Values& values, const std::string& file, std::string_view key, int64_t otherwise) {
  const auto found = values.find(key);
  if (found == values.end()) return otherwise;
  int64_t value;
  if (!as_integer(found->second, &value))
    fail(file, ": ", key, ": expected an integer, found ", describe(found->second));
  return value;
}

int64_t part_count(const Values& values, const std::string& file) {
  const int64_t count = integer_or(values, file, "split.count", 1);
  if (count < 0 || count > kMaxParts) fail(file, ": split.count: expected 0 to ", kMaxParts, ", found ", count);
  return std::max<int64_t>(count, 1);  // a model that was joined again says 0
}

// What follows the model's name in the file name of part `index`.
std::string suffix(int64_t index, int64_t count) {
  char text[32];
  snprintf(text, sizeof(text), "-%05d-of-%05d.gguf", static_cast<int>(index + 1), static_cast<int>(count));
  return text;
}

std::string shown(const std::string& path) { return printable(path, 4096); }

}  // namespace

std::vector<std::string> part_paths(const std::string& path, const Values& values) {
  const std::string file = shown(path);
  const int64_t count = part_count(values, file);
  if (count == 1) return {path};
  const int64_t index = integer_or(values, file, "split.no", -1);
  if (index < 0 || index >= count)
    fail(file, ": split.no: expected 0 to ", count - 1, " in a model of ", count, " parts, found ",
         index == -1 ? "none" : std::to_string(index));
  const std::string own = suffix(index, count);
  if (!path.ends_with(own))
    fail(file, ": this is part ", index + 1, " of ", count,
         " of a split model: expected a file name ending in ", own, ", so that the other parts can be found");
  const std::string model = path.substr(0, path.size() - own.size());
  std::vector<std::string> paths;
  std::error_code ignored;  // opening the part will say more
  for (int64_t i = 0; i < count; ++i) {
    paths.push_back(model + suffix(i, count));
    if (i != index && !std::filesystem::exists(paths.back(), ignored))
      fail(shown(paths.back()), ": part ", i + 1, " of ", count,
           " of this split model is missing; expected it next to ", file);
  }
  return paths;
}

void check_parts(const std::vector<Part>& parts, const std::vector<std::string>& paths) {
  if (parts.empty()) fail("a model needs at least one part");
  const auto count = static_cast<int64_t>(parts.size());
  int64_t tensors = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Values& values = parts[i].values;
    tensors += static_cast<int64_t>(parts[i].tensors.size());
    if (const int64_t found = part_count(values, shown(paths[i])); found != count)
      fail(shown(paths[i]), ": split.count: expected ", count, ", found ", found);
    if (const int64_t found = integer_or(values, shown(paths[i]), "split.no", -1); count > 1 && found != i)
      fail(shown(paths[i]), ": split.no: expected ", i, ", found ",
           found == -1 ? "none" : std::to_string(found));
  }
  for (int64_t i = 0; count > 1 && i < count; ++i)
    if (const int64_t found = integer_or(parts[i].values, shown(paths[i]), "split.tensors.count", tensors);
        found != tensors)
      fail(shown(paths[i]), ": split.tensors.count: expected ", tensors,
           ", which all parts together hold, found ", found);
}

}  // namespace pyllm::gguf
