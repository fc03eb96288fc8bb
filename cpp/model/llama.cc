// Llama and everything built like it (Touvron et al., 2023): RMS norm, grouped-query attention with rotary
// positions, SiLU-gated feed-forward. Biases and Llama 3's RoPE factors are taken where the file has them.
// Qwen2 (2024) is the same block with biases on q, k and v and its rotary pairs half a head apart.
#include "model/decoder.h"

namespace pyllm {

namespace {

struct LlamaLayer {
  Norm attn_norm, ffn_norm;
  Linear wqkv, wo, gate_up, down;
};

class Llama : public Decoder {
 public:
  Llama(const Loader& load, RopePairs pairs) : Decoder(load) {
    const AttentionShape& a = shape_.attention;
    rope_ = load.rope(shape_, pairs);
    for (int i = 0; i < shape_.layers; ++i)
      layers_.push_back(
          {load.norm(block(i) + "attn_norm", shape_.dim, shape_.norm_eps),
           load.norm(block(i) + "ffn_norm", shape_.dim, shape_.norm_eps), load.qkv(block(i), shape_),
           load.linear(block(i) + "attn_output", shape_.dim, int64_t{a.heads} * a.head_dim),
           load.gate_up(block(i), shape_), load.linear(block(i) + "ffn_down", shape_.dim, shape_.ffn)});
  }

  Output forward(const Batch& batch) override {
    const AttentionShape& a = shape_.attention;
    Step s = begin(batch);
    Value x = s.embed(*embedding_);
    const RopeTable table = s.rope_table(rope_);
    for (int i = 0; const LlamaLayer& l : layers_) {
      const Step::Scope scope(s, i, x);
      const auto [q, k, v] = split_qkv(l.wqkv(l.attn_norm(x)), a);
      x += l.wo(s.attend(i++, q, k, v, a, {rope_, table}));
      x += l.down(silu_gate(l.gate_up(l.ffn_norm(x))));
    }
    return output(s, x);
  }

 private:
  Rope rope_;
  std::vector<LlamaLayer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_llama(const Loader& load) {
  return std::make_unique<Llama>(load, RopePairs::Adjacent);
}
std::unique_ptr<Model> make_qwen2(const Loader& load) {
  return std::make_unique<Llama>(load, RopePairs::Halves);
}

}  // namespace pyllm
