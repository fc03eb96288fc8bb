// Models split over several files, NAME-00001-of-00003.gguf and so on: which files, and do they belong
// together.
#pragma once

#include <string>
#include <vector>

#include "gguf/part.h"

namespace pyllm::gguf {

// The paths of all parts of the model that `path`, with these metadata, is one of; {path} for a whole model.
// Throws Error when the file's name does not fit what its metadata say.
std::vector<std::string> part_paths(const std::string& path, const Values& values);

// Throws Error unless parts[i], read from paths[i], is part i of one and the same model.
void check_parts(const std::vector<Part>& parts, const std::vector<std::string>& paths);

}  // namespace pyllm::gguf
