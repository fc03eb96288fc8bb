#include "model/model.h"

#include "core/error.h"
#include "model/loader.h"

namespace pyllm {

// One line an architecture: its name in `general.architecture`, and who makes it.
#define PYLLM_ARCHITECTURES(X) \
  X("llama", make_llama)       \
  X("qwen2", make_qwen2)       \
  X("qwen3", make_qwen3)       \
  X("gemma3", make_gemma3)

#define PYLLM_X(name, make) std::unique_ptr<Model> make(const Loader& load);
PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X

std::vector<std::string> known_architectures() {
  return {
#define PYLLM_X(name, make) name,
      PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X
  };
}

int64_t Model::kv_block_bytes() const {
  int64_t bytes = 0;
  for (const KvMemory& memory : kv_memory()) bytes += memory.block_bytes;
  return bytes;
}

int layer_count(const gguf::File& file) {
  if (file.tensors().empty())
    fail(file.path(), ": the file holds no tensors; a vocabulary-only file cannot generate text");
  const std::string_view architecture = file.string("general.architecture");
  std::string known;
  for (const std::string& name : known_architectures()) {
    if (name == architecture) return static_cast<int>(Loader(file, nullptr).config().layers);
    known += (known.empty() ? "" : ", ") + name;
  }
  fail("general.architecture: ", architecture, " is not supported; known: ", known);
}

std::unique_ptr<Model> load_model(const gguf::File& file, std::shared_ptr<const Placement> placement) {
  if (const int layers = layer_count(file); layers != placement->layers())
    fail("placement: expected a backend for each of the model's ", layers, " layers, got ",
         placement->layers());
  const std::string_view architecture = file.string("general.architecture");
  const Loader load(file, std::move(placement));
#define PYLLM_X(name, make) \
  if (architecture == name) return make(load);
  PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X
  return nullptr;  // layer_count knows the architecture
}

}  // namespace pyllm
