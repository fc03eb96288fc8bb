#include "engine/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

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

// The least that `mount + path` or a group above it leaves. Inside a container the path may not exist under
// the mount; then the mount itself is the container's group.
int64_t group_headroom(const std::string& mount, std::string path, const Names& names) {
  int64_t least = kUnlimited;
  for (;;) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    const std::string group = mount + path;
    const auto limit = read_number(group + names.limit), used = read_number(group + names.used);
    if (limit && used) {
      const int64_t reclaimable = read_field(group + "/memory.stat", names.reclaimable, 0);
      least = std::min(least, std::max<int64_t>(0, *limit - std::max<int64_t>(0, *used - reclaimable)));
    }
    if (path.empty()) return least;
    path.erase(std::min(path.rfind('/'), path.size()));
  }
}

// Lines of /proc/self/cgroup are "number:controllers:path"; version 2 has number 0 and no controllers.
int64_t control_groups(const std::string& root) {
  int64_t least = kUnlimited;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    const std::string mount = root + "/sys/fs/cgroup";
    if (controllers == ",,") least = std::min(least, group_headroom(mount, path, kVersion2));
    if (controllers.find(",memory,") != std::string::npos)
      least = std::min(least, group_headroom(mount + "/memory", path, kVersion1));
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

int64_t available_memory(const std::string& root) { return std::min(machine(root), control_groups(root)); }

}  // namespace pyllm
