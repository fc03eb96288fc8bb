// What all decoders share around their forward: backend, embedding, head and KV cache.
#pragma once

#include <memory>
#include <string>

#include "core/error.h"
#include "model/layers.h"
#include "model/loader.h"
#include "model/model.h"

namespace pyllm {

class Decoder : public Model {
 public:
  int64_t kv_block_bytes() const override { return backend_->kv_block_bytes(kv_shape()); }
  int64_t mapped_bytes() const override { return backend_->mapped_bytes(); }
  void allocate_kv(int blocks) override { kv_ = backend_->kv_cache(kv_shape(), blocks); }

 protected:
  Decoder(std::unique_ptr<Backend> backend, const Loader& load) : backend_(std::move(backend)) {
    config_ = load.config();
    shape_ = load.decoder_shape();
    embedding_ = load.embedding(config_.vocab, config_.dim);
    final_norm_ = load.norm("output_norm", config_.dim, shape_.norm_eps);
    head_ = load.output(config_.vocab, config_.dim);
  }

  static std::string block(int layer) { return "blk." + std::to_string(layer) + "."; }
  Step begin(const Batch& batch) { return Step(*backend_, *kv_, batch); }
  // Logits and states of the rows that want them.
  Output output(Step& s, const Value& x) {
    Output out;
    if (const auto& rows = s.batch().sampled_rows; !rows.empty())
      out.logits = s.download(head_(final_norm_(s.rows_of(x, rows))));
    if (const auto& rows = s.batch().state_rows; !rows.empty()) {
      const Value states = s.rows_of(x, rows);
      final_norm_.in_place(states);
      out.states = s.download(states);
    }
    return out;
  }

  std::unique_ptr<Backend> backend_;  // first: outlives everything that was made by it
  DecoderShape shape_;
  std::unique_ptr<Weight> embedding_;
  Norm final_norm_{};
  Linear head_;

 private:
  KvShape kv_shape() const { return {shape_.layers, shape_.attention.kv_heads, shape_.attention.head_dim}; }

  std::unique_ptr<KvCache> kv_;
};

}  // namespace pyllm
