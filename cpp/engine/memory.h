// How much memory the process may still take.
#pragma once

#include <cstdint>
#include <string>

namespace pyllm {

// Bytes that can be allocated without pushing others out: what the machine has free or can reclaim, and no more
// than any control group (version 1 or 2) on the process's path leaves. 0 when the system does not tell.
// `root` stands before /proc and /sys: for tests.
int64_t available_memory(const std::string& root = "");

}  // namespace pyllm
