// Gemma 3 (2025), text: scaled embeddings, norms before and after each half of a block, normalised queries and
// keys, and five layers with a sliding window (own RoPE base) for each one that sees everything.
#include <cmath>

#include "model/decoder.h"

namespace pyllm {

namespace {

struct Gemma3Layer {
  bool is_global;
  Norm attn_norm, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
  Linear wqkv, wo, gate_up, down;
};

class Gemma3 : public Decoder {
 public:
  explicit Gemma3(const Loader& load) : Decoder(load) {
    AttentionShape& a = shape_.attention;
    const float eps = shape_.norm_eps;
    // The 27B model (62 layers) scales by its width per head instead of the head's size; the format has no key
    // for it.
    if (shape_.layers == 62)
      a.scale = 1.0f / std::sqrt(static_cast<float>(shape_.dim) / static_cast<float>(a.heads));
    global_ = local_ = a;
    local_.window = window(load);
    global_rope_ = load.rope(shape_, RopePairs::Halves);
    local_rope_ = load.rope_unscaled(
        shape_, RopePairs::Halves, load.file().maybe_number(load.key("rope.freq_base_swa")).value_or(10000.0));
    const std::vector<bool> is_global = global_layers(load);
    for (int i = 0; i < shape_.layers; ++i)
      layers_.push_back({is_global[static_cast<size_t>(i)], load.norm(block(i) + "attn_norm", shape_.dim, eps),
                         load.norm(block(i) + "attn_q_norm", a.head_dim, eps),
                         load.norm(block(i) + "attn_k_norm", a.head_dim, eps),
                         load.norm(block(i) + "post_attention_norm", shape_.dim, eps),
                         load.norm(block(i) + "ffn_norm", shape_.dim, eps),
                         load.norm(block(i) + "post_ffw_norm", shape_.dim, eps), load.qkv(block(i), shape_),
                         load.linear(block(i) + "attn_output", shape_.dim, int64_t{a.heads} * a.head_dim),
                         load.gate_up(block(i), shape_),
                         load.linear(block(i) + "ffn_down", shape_.dim, shape_.ffn)});
  }

  Output forward(const Batch& batch) override {
    Step s = begin(batch);
    Value x = s.embed(*embedding_, std::sqrt(static_cast<float>(shape_.dim)));
    const RopeTable global_table = s.rope_table(global_rope_), local_table = s.rope_table(local_rope_);
    for (int i = 0; const Gemma3Layer& l : layers_) {
      const Step::Scope scope(s, i, x);
      const AttentionShape& a = l.is_global ? global_ : local_;
      const Rope& rope = l.is_global ? global_rope_ : local_rope_;
      const RopeTable& table = l.is_global ? global_table : local_table;
      const auto [q, k, v] = split_qkv(l.wqkv(l.attn_norm(x)), a);
      const Turn turn{rope, table, &l.q_norm, &l.k_norm};
      x += l.post_attn_norm(l.wo(s.attend(i++, q, k, v, a, turn)));
      x += l.post_ffn_norm(l.down(gelu_gate(l.gate_up(l.ffn_norm(x)))));
    }
    return output(s, x);
  }

 private:
  static int window(const Loader& load) {
    const std::string key = load.key("attention.sliding_window");
    const int64_t window = load.file().integer(key);
    if (window < 1 || window > INT32_MAX) fail(key, ": expected 1 to ", INT32_MAX, ", the file has ", window);
    return static_cast<int>(window);
  }

  // attention.sliding_window_pattern: every n-th layer is global (6 where the key is absent), or a flag a
  // layer.
  std::vector<bool> global_layers(const Loader& load) const {
    const std::string key = load.key("attention.sliding_window_pattern");
    const gguf::Value* value = load.file().find(key);
    std::vector<bool> global;
    if (value != nullptr && value->is_array) {
      for (const double is_local : load.file().numbers(key)) global.push_back(is_local == 0.0);
      if (static_cast<int>(global.size()) != shape_.layers)
        fail(key, ": expected ", shape_.layers, " flags, the file has ", global.size());
      return global;
    }
    const int64_t every = load.file().maybe_integer(key).value_or(6);
    if (every < 1) fail(key, ": expected at least 1, the file has ", every);
    for (int i = 0; i < shape_.layers; ++i) global.push_back((i + 1) % every == 0);
    return global;
  }

  AttentionShape global_, local_;
  Rope global_rope_, local_rope_;
  std::vector<Gemma3Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_gemma3(const Loader& load) { return std::make_unique<Gemma3>(load); }

}  // namespace pyllm
