#include "core/cgroup.h"

#include <algorithm>
#include <fstream>

namespace pyllm {

std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root) {
  std::vector<ControlGroup> groups;
  const auto add_path = [&](const std::string& mount, std::string path, int version) {
    for (;;) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      groups.push_back({mount + path, version});
      if (path.empty()) return;
      path.erase(std::min(path.rfind('/'), path.size()));
    }
  };
  // Lines are "number:controllers:path"; version 2 has no controllers.
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1), mount = root + "/sys/fs/cgroup";
    if (controllers == ",,") add_path(mount, path, 2);
    if (controllers.find("," + controller + ",") != std::string::npos)
      add_path(mount + "/" + controller, path, 1);
  }
  return groups;
}

}  // namespace pyllm
