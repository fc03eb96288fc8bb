// Qwen3 (2025): like Qwen2 without biases, with every query and key head normalised before its rotation.
#include "model/decoder.h"

namespace pyllm {

namespace {

struct Qwen3Layer {
  Norm attn_norm, q_norm, k_norm, ffn_norm;
  Linear wqkv, wo, gate_up, down;
};

class Qwen3 : public Decoder {
 public:
  explicit Qwen3(const Loader& load) : Decoder(load) {
    const AttentionShape& a = shape_.attention;
    const float eps = shape_.norm_eps;
    rope_ = load.rope(shape_, RopePairs::Halves);
    for (int i = 0; i < shape_.layers; ++i)
      layers_.push_back({load.norm(block(i) + "attn_norm", shape_.dim, eps),
                         load.norm(block(i) + "attn_q_norm", a.head_dim, eps),
                         load.norm(block(i) + "attn_k_norm", a.head_dim, eps),
                         load.norm(block(i) + "ffn_norm", shape_.dim, eps), load.qkv(block(i), shape_),
                         load.linear(block(i) + "attn_output", shape_.dim, int64_t{a.heads} * a.head_dim),
                         load.gate_up(block(i), shape_),
                         load.linear(block(i) + "ffn_down", shape_.dim, shape_.ffn)});
  }

  Output forward(const Batch& batch) override {
    const AttentionShape& a = shape_.attention;
    Step s = begin(batch);
    Value x = s.embed(*embedding_);
    const RopeTable table = s.rope_table(rope_);
    for (int i = 0; const Qwen3Layer& l : layers_) {
      const Step::Scope scope(s, i, x);
      const auto [q, k, v] = split_qkv(l.wqkv(l.attn_norm(x)), a);
      x += l.wo(s.attend(i++, q, k, v, a, {rope_, table, &l.q_norm, &l.k_norm}));
      x += l.down(silu_gate(l.gate_up(l.ffn_norm(x))));
    }
    return output(s, x);
  }

 private:
  Rope rope_;
  std::vector<Qwen3Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_qwen3(const Loader& load) { return std::make_unique<Qwen3>(load); }

}  // namespace pyllm
