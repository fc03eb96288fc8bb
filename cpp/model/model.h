// A language model, ready to compute: weights on a backend, a paged KV cache, and one forward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/batch.h"
#include "core/tensor.h"
#include "gguf/reader.h"
#include "model/placement.h"

namespace pyllm {

struct ModelConfig {
  std::string architecture;
  int64_t context_length = 0;  // tokens the model was made for
  int64_t vocab = 0;
  int64_t dim = 0;
  int64_t layers = 0;
};

// Rows that a forward gives, where it computed them - perhaps still does -, valid until the next one.
struct Result {
  Backend* backend = nullptr;  // none: they are in host memory
  Tensor tensor;

  // In host memory; may be overwritten.
  Tensor host() const { return backend != nullptr ? backend->download(tensor) : tensor; }
};
struct Output {
  Result logits;  // [sampled_rows, vocab]
  Result states;  // [state_rows, dim], after the final norm
};

// Memory that holds keys and values: the host's, or a device's own.
struct KvMemory {
  int64_t block_bytes = 0;            // of a block of kBlockTokens tokens, all layers there
  int64_t mapped_bytes = 0;           // of weights there that are read from files' mappings
  std::optional<int64_t> free_bytes;  // of a device's own
};

// One thread at a time may call a Model (the engine's).
class Model {
 public:
  virtual ~Model() = default;
  const ModelConfig& config() const { return config_; }

  virtual std::vector<KvMemory> kv_memory() const = 0;
  virtual void allocate_kv(int blocks) = 0;  // once, before the first forward; throws Error when it cannot
  int64_t kv_block_bytes() const;            // of a block of kBlockTokens tokens, all layers
  // A block's keys and values, all layers, to and from kv_block_bytes() bytes, between forwards. Bytes of
  // another model, placement or kv_type give wrong tokens, never more.
  virtual void read_kv(int32_t block, std::byte* out) = 0;
  virtual void write_kv(int32_t block, const std::byte* from) = 0;

  // Computes every token of the batch, storing keys and values in the batch's blocks. A device may still be at
  // it when this returns; what goes wrong there is thrown by what asks for the output.
  virtual Output forward(const Batch& batch) = 0;

 protected:
  ModelConfig config_;
};

// Throws Error: unknown architecture (lists the known ones), missing or misshapen tensor or key.
// The file must outlive the model: embeddings are read from its mapping.
std::unique_ptr<Model> load_model(const gguf::File& file, std::shared_ptr<const Placement> placement);

// Layers of the model in `file`, as its header has them. Throws Error as load_model does.
int layer_count(const gguf::File& file);

std::vector<std::string> known_architectures();

}  // namespace pyllm
