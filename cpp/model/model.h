// A language model, ready to compute: weights on a backend, a paged KV cache, and one forward.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/batch.h"
#include "core/kv_type.h"
#include "core/tensor.h"
#include "gguf/reader.h"

namespace pyllm {

struct ModelConfig {
  std::string architecture;
  int64_t context_length = 0;  // tokens the model was made for
  int64_t vocab = 0;
  int64_t dim = 0;
  int64_t layers = 0;
};

// What a forward gives, in host memory, valid until the next one.
struct Output {
  Tensor logits;  // [sampled_rows, vocab]; may be overwritten
  Tensor states;  // [state_rows, dim], after the final norm
};

// One thread at a time may call a Model (the engine's).
class Model {
 public:
  virtual ~Model() = default;
  const ModelConfig& config() const { return config_; }

  virtual int64_t kv_block_bytes() const = 0;         // of one block of kBlockTokens tokens, all layers
  virtual int64_t mapped_bytes() const { return 0; }  // of weights that are read from files' mappings
  virtual void allocate_kv(int blocks) = 0;  // once, before the first forward; throws Error when it cannot

  // Computes every token of the batch, storing keys and values in the batch's blocks.
  virtual Output forward(const Batch& batch) = 0;

 protected:
  ModelConfig config_;
};

struct LoadOptions {
  int threads = 0;                             // 0: as many as the process may use
  std::string isa;                             // "": the best this machine has, or PYLLM_ISA
  bool precise = false;                        // BackendOptions::precise
  bool pack = true;                            // BackendOptions::pack
  std::shared_ptr<cpu::PackedWeights> packed;  // BackendOptions::packed
  KvType kv_type{};
};

// Throws Error: unknown architecture (lists the known ones), missing or misshapen tensor or key.
// The file must outlive the model: embeddings are read from its mapping.
std::unique_ptr<Model> load_model(const gguf::File& file, const LoadOptions& options);

std::vector<std::string> known_architectures();

}  // namespace pyllm
