#include "engine/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "core/cgroup.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace pyllm {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

// The number after `name` in lines of "name value".
int64_t read_field(const std::string& path, const std::string& name, int64_t otherwise) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    int64_t value;
    if (words >> word >> value && word == name) return value;
  }
  return otherwise;
}

struct Names {
  const char* limit;
  const char* used;
  const char* reclaimable;  // in memory.stat: cached file pages that nobody has used lately
};
constexpr Names kVersion1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"};
constexpr Names kVersion2 = {"/memory.max", "/memory.current", "inactive_file"};

// The least that any control group on the process's path leaves.
int64_t group_headroom(const std::string& root) {
  int64_t least = kUnlimited;
  for (const ControlGroup& group : control_groups("memory", root)) {
    const Names& names = group.version == 1 ? kVersion1 : kVersion2;
    const auto limit = read_number(group.folder + names.limit), used = read_number(group.folder + names.used);
    if (!limit || !used) continue;
    const int64_t reclaimable = read_field(group.folder + "/memory.stat", names.reclaimable, 0);
    least = std::min(least, std::max<int64_t>(0, *limit - std::max<int64_t>(0, *used - reclaimable)));
  }
  return least;
}

int64_t machine(const std::string& root) {
#ifdef __APPLE__
  int64_t total = 0;
  size_t size = sizeof(total);
  if (root.empty() && sysctlbyname("hw.memsize", &total, &size, nullptr, 0) == 0) return total / 2;
#endif
  return read_field(root + "/proc/meminfo", "MemAvailable:", 0) * 1024;
}

}  // namespace

int64_t available_memory(const std::string& root) { return std::min(machine(root), group_headroom(root)); }

}  // namespace pyllm
