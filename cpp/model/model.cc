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

#define PYLLM_X(name, make) std::unique_ptr<Model> make(std::unique_ptr<Backend> backend, const Loader& load);
PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X

std::vector<std::string> known_architectures() {
  return {
#define PYLLM_X(name, make) name,
      PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X
  };
}

std::unique_ptr<Model> load_model(const gguf::File& file, const LoadOptions& options) {
  const std::string_view architecture = file.string("general.architecture");
  if (file.tensors().empty())
    fail(file.path(), ": the file holds no tensors; a vocabulary-only file cannot generate text");
  auto backend = make_cpu_backend(
      {options.threads, options.isa.c_str(), options.precise, options.pack, options.packed, options.kv_type});
  const Loader load(file, *backend);
#define PYLLM_X(name, make) \
  if (architecture == name) return make(std::move(backend), load);
  PYLLM_ARCHITECTURES(PYLLM_X)
#undef PYLLM_X
  std::string known;
  for (const std::string& name : known_architectures()) known += (known.empty() ? "" : ", ") + name;
  fail("general.architecture: ", architecture, " is not supported; known: ", known);
}

}  // namespace pyllm
