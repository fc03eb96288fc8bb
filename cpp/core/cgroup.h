// The control groups (Linux, versions 1 and 2) that limit this process.
#pragma once

#include <string>
#include <vector>

namespace pyllm {

struct ControlGroup {
  std::string folder;  // where its files are
  int version;
};

// Every group on the process's path that has a say on `controller` ("cpu", "memory"), innermost first. Inside a
// container the path may not exist under the mount; then the mount itself is the container's group, listed
// last. `root` stands before /proc and /sys: for tests.
std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root = "");

}  // namespace pyllm
