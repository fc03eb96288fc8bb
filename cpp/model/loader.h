// Reads a model's sizes and tensors from a GGUF file, and refuses what is missing or misshapen by name.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "gguf/reader.h"
#include "model/layers.h"
#include "model/model.h"
#include "model/placement.h"

namespace pyllm {

// Sizes that every decoder has, from "<architecture>." keys.
struct DecoderShape {
  int64_t dim = 0;
  int layers = 0;
  int64_t ffn = 0;
  int rope_dims = 0;  // features of a head that are rotated
  float norm_eps = 0.0f;
  AttentionShape attention;
};

class Loader {
 public:
  Loader(const gguf::File& file, std::shared_ptr<const Placement> placement);

  const gguf::File& file() const { return file_; }
  const std::shared_ptr<const Placement>& placement() const { return placement_; }
  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  ModelConfig config() const;
  DecoderShape decoder_shape() const;
  // From freq_base (or `base`), rope_freqs.weight and rope.scaling.*.
  Rope rope(const DecoderShape& shape, RopePairs pairs) const;
  Rope rope_unscaled(const DecoderShape& shape, RopePairs pairs, double base) const;

  // "name.weight" of [rows, cols], with "name.bias" where the file has one.
  Linear linear(const std::string& name, int64_t rows, int64_t cols) const;
  // q, k and v; gate and up: one product.
  Linear qkv(const std::string& block, const DecoderShape& shape) const;
  Linear gate_up(const std::string& block, const DecoderShape& shape) const;
  Norm norm(const std::string& name, int64_t size, float eps) const;
  std::unique_ptr<Weight> embedding(int64_t vocab, int64_t dim) const;
  Linear output(int64_t vocab, int64_t dim) const;  // output.weight, or token_embd.weight where they are tied

 private:
  const gguf::TensorInfo& tensor(const std::string& name) const;
  const gguf::TensorInfo& matrix(const std::string& name, int64_t rows, int64_t cols) const;
  std::vector<float> values(const gguf::TensorInfo& tensor, int64_t size) const;
  std::unique_ptr<Vector> vector(const gguf::TensorInfo& tensor, int64_t size) const;
  Rope rope(std::span<const float> frequency, float magnitude, RopePairs pairs) const;
  Backend& home(std::string_view tensor) const;
  int64_t positive(std::string_view name, int64_t limit) const;

  const gguf::File& file_;
  std::shared_ptr<const Placement> placement_;
  std::string architecture_;
};

}  // namespace pyllm
