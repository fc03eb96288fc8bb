#include "model/loader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "quant/dequantize.h"

namespace pyllm {

namespace {

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// YaRN (Peng et al., 2023): how far pair i is left as trained (1) rather than stretched (0).
double yarn_ramp(int i, int dims, double base, double original_context, double beta_fast, double beta_slow) {
  const auto pair_turning = [&](double turns) {
    return dims * std::log(original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair_turning(beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_turning(beta_slow)), dims - 1.0);
  return 1.0 - std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
}

}  // namespace

Loader::Loader(const gguf::File& file, std::shared_ptr<const Placement> placement)
    : file_(file), placement_(std::move(placement)), architecture_(file.string("general.architecture")) {}

// Where a tensor of that name belongs: "blk.3.attn_q.weight" to layer 3, what is of no layer to the head.
Backend& Loader::home(std::string_view tensor) const {
  constexpr std::string_view kBlock = "blk.";
  if (!tensor.starts_with(kBlock)) return placement_->head();
  int layer = 0;
  std::from_chars(tensor.data() + kBlock.size(), tensor.data() + tensor.size(), layer);
  return placement_->layer(layer);
}

int64_t Loader::positive(std::string_view name, int64_t limit) const {
  const int64_t value = file_.integer(key(name));
  if (value <= 0 || value > limit) fail(key(name), ": expected 1 to ", limit, ", the file has ", value);
  return value;
}

ModelConfig Loader::config() const {
  const gguf::TensorInfo& embedding = tensor("token_embd.weight");
  if (embedding.shape.size() != 2)
    fail("token_embd.weight: expected 2 dimensions, the file has ", shape_text(embedding.shape));
  ModelConfig config;
  config.architecture = architecture_;
  config.context_length = positive("context_length", int64_t{1} << 31);
  config.dim = positive("embedding_length", 1 << 20);
  config.layers = positive("block_count", 4096);
  config.vocab = static_cast<int64_t>(embedding.shape[1]);
  return config;
}

DecoderShape Loader::decoder_shape() const {
  DecoderShape shape;
  if (const auto experts = file_.maybe_integer(key("expert_count")); experts.value_or(0) > 0)
    fail(key("expert_count"), ": ", *experts, " experts; mixtures of experts are not supported yet");
  shape.dim = positive("embedding_length", 1 << 20);
  shape.layers = static_cast<int>(positive("block_count", 4096));
  shape.ffn = positive("feed_forward_length", 1 << 24);
  shape.norm_eps = static_cast<float>(file_.number(key("attention.layer_norm_rms_epsilon")));
  const int64_t heads = positive("attention.head_count", 4096);
  const bool has_kv = file_.find(key("attention.head_count_kv")) != nullptr;
  const int64_t kv_heads = has_kv ? positive("attention.head_count_kv", 4096) : heads;
  if (heads % kv_heads != 0)
    fail(key("attention.head_count_kv"), ": expected a divisor of ", heads, " heads, the file has ", kv_heads);
  const bool has_dim = file_.find(key("attention.key_length")) != nullptr;
  const int64_t head_dim = has_dim ? positive("attention.key_length", 4096) : shape.dim / heads;
  if (head_dim == 0 || (!has_dim && shape.dim % heads != 0))
    fail(key("attention.head_count"), ": expected a divisor of ", key("embedding_length"), " ", shape.dim,
         ", the file has ", heads);
  const int64_t value_dim = file_.maybe_integer(key("attention.value_length")).value_or(head_dim);
  if (value_dim != head_dim)
    fail(key("attention.value_length"), ": expected key_length ", head_dim, ", the file has ", value_dim);
  shape.rope_dims = static_cast<int>(file_.maybe_integer(key("rope.dimension_count")).value_or(head_dim));
  if (shape.rope_dims <= 0 || shape.rope_dims > head_dim || shape.rope_dims % 2 != 0)
    fail(key("rope.dimension_count"), ": expected an even number up to the head's ", head_dim,
         ", the file has ", shape.rope_dims);
  shape.attention = {.heads = static_cast<int>(heads),
                     .kv_heads = static_cast<int>(kv_heads),
                     .head_dim = static_cast<int>(head_dim),
                     .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
  return shape;
}

Rope Loader::rope_unscaled(const DecoderShape& shape, RopePairs pairs, double base) const {
  std::vector<float> frequency;
  for (int i = 0; i < shape.rope_dims; i += 2)
    frequency.push_back(static_cast<float>(1.0 / std::pow(base, static_cast<double>(i) / shape.rope_dims)));
  return rope(frequency, 1.0f, pairs);
}

Rope Loader::rope(std::span<const float> frequency, float magnitude, RopePairs pairs) const {
  Rope rope{{}, magnitude, pairs};
  for (int i = 0; i < placement_->backends(); ++i)
    if (placement_->layers_on(i) > 0)
      rope.frequency.push_back({&placement_->backend(i), placement_->backend(i).vector(frequency)});
  return rope;
}

Rope Loader::rope(const DecoderShape& shape, RopePairs pairs) const {
  const double base = file_.maybe_number(key("rope.freq_base")).value_or(10000.0);
  const int n = shape.rope_dims;
  std::vector<double> frequency;
  for (int i = 0; i < n; i += 2) frequency.push_back(1.0 / std::pow(base, static_cast<double>(i) / n));
  if (const gguf::TensorInfo* factors = file_.find_tensor("rope_freqs.weight")) {  // Llama 3's long context
    const std::vector<float> factor = values(*factors, n / 2);
    for (size_t i = 0; i < factor.size(); ++i) frequency[i] /= factor[i];
  }
  double magnitude = 1.0;
  const std::string_view type = file_.maybe_string(key("rope.scaling.type")).value_or("linear");
  double factor = file_.maybe_number(key("rope.scaling.factor")).value_or(0.0);
  if (factor == 0.0) factor = file_.maybe_number(key("rope.scale_linear")).value_or(1.0);
  if (!(factor > 0.0)) fail(key("rope.scaling.factor"), ": expected more than 0, the file has ", factor);
  if (type == "linear") {
    for (double& f : frequency) f /= factor;
  } else if (type == "yarn") {
    const double original = file_.number(key("rope.scaling.original_context_length"));
    const double fast = file_.maybe_number(key("rope.scaling.yarn_beta_fast")).value_or(32.0);
    const double slow = file_.maybe_number(key("rope.scaling.yarn_beta_slow")).value_or(1.0);
    for (int i = 0; i < n / 2; ++i) {
      const double keep = yarn_ramp(i, n, base, original, fast, slow);
      double& f = frequency[static_cast<size_t>(i)];
      f = f / factor * (1.0 - keep) + f * keep;
    }
    const auto attention = file_.maybe_number(key("rope.scaling.attn_factor"));
    magnitude = attention.value_or(file_.maybe_number(key("rope.scaling.yarn_attn_factor")).value_or(1.0));
    magnitude *= 1.0 + 0.1 * std::log(factor);
  } else if (type != "none") {
    fail(key("rope.scaling.type"), ": expected none, linear or yarn, the file has ", type);
  }
  const std::vector<float> rounded(frequency.begin(), frequency.end());
  return rope(rounded, static_cast<float>(magnitude), pairs);
}

const gguf::TensorInfo& Loader::tensor(const std::string& name) const {
  const gguf::TensorInfo* found = file_.find_tensor(name);
  if (found == nullptr)
    fail(name, ": not in ", file_.path(), " (", file_.tensors().size(), " tensors); an ", architecture_,
         " model needs it. `pyllm show --tensors` lists what the file holds");
  return *found;
}

const gguf::TensorInfo& Loader::matrix(const std::string& name, int64_t rows, int64_t cols) const {
  const gguf::TensorInfo& t = tensor(name);
  if (t.shape.size() != 2 || t.shape[0] != static_cast<uint64_t>(cols) ||
      t.shape[1] != static_cast<uint64_t>(rows))
    fail(name, ": expected shape [", cols, ", ", rows, "] from the ", architecture_, " metadata, the file has ",
         shape_text(t.shape));
  if (!quant::is_weight_type(t.type))
    fail(name, ": expected a float or quantized type, the file has ", type_info(t.type).name);
  return t;
}

std::vector<float> Loader::values(const gguf::TensorInfo& t, int64_t size) const {
  if (t.shape.size() != 1 || t.shape[0] != static_cast<uint64_t>(size))
    fail(t.name, ": expected shape [", size, "], the file has ", shape_text(t.shape));
  if (!quant::is_weight_type(t.type))
    fail(t.name, ": expected a float or quantized type, the file has ", type_info(t.type).name);
  std::vector<float> values(static_cast<size_t>(size));
  quant::dequantize_row(t.type, t.data.data(), size, values.data());
  return values;
}

std::unique_ptr<Vector> Loader::vector(const gguf::TensorInfo& t, int64_t size) const {
  return home(t.name).vector(values(t, size));
}

Linear Loader::linear(const std::string& name, int64_t rows, int64_t cols) const {
  const gguf::TensorInfo& t = matrix(name + ".weight", rows, cols);
  Linear result;
  result.parts.push_back({home(t.name).matrix({t.type, rows, cols, t.data, t.name}), nullptr});
  file_.forget(t);  // the backend keeps its own form, or reads the file again
  if (const gguf::TensorInfo* bias = file_.find_tensor(name + ".bias"))
    result.parts[0].bias = vector(*bias, rows);
  return result;
}

Linear Loader::qkv(const std::string& block, const DecoderShape& shape) const {
  const AttentionShape& a = shape.attention;
  Linear all = linear(block + "attn_q", int64_t{a.heads} * a.head_dim, shape.dim);
  for (const char* name : {"attn_k", "attn_v"})
    all.parts.push_back(std::move(linear(block + name, int64_t{a.kv_heads} * a.head_dim, shape.dim).parts[0]));
  return all;
}

Linear Loader::gate_up(const std::string& block, const DecoderShape& shape) const {
  Linear both = linear(block + "ffn_gate", shape.ffn, shape.dim);
  both.parts.push_back(std::move(linear(block + "ffn_up", shape.ffn, shape.dim).parts[0]));
  return both;
}

Norm Loader::norm(const std::string& name, int64_t size, float eps) const {
  return {vector(tensor(name + ".weight"), size), eps};
}

std::unique_ptr<Weight> Loader::embedding(int64_t vocab, int64_t dim) const {
  const gguf::TensorInfo& t = matrix("token_embd.weight", vocab, dim);
  return placement_->embedding().embedding({t.type, vocab, dim, t.data});
}

Linear Loader::output(int64_t vocab, int64_t dim) const {
  const bool tied = file_.find_tensor("output.weight") == nullptr;
  return linear(tied ? "token_embd" : "output", vocab, dim);
}

}  // namespace pyllm
