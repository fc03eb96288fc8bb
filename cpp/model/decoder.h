// What all decoders share around their forward: backends, embedding, head and KV caches.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/layers.h"
#include "model/loader.h"
#include "model/model.h"

namespace pyllm {

class Decoder : public Model {
 public:
  std::vector<KvMemory> kv_memory() const override {
    std::vector<KvMemory> memory;
    for (int i = 0; i < placement_->backends(); ++i) {
      const Backend& backend = placement_->backend(i);
      if (placement_->layers_on(i) > 0)
        memory.push_back({backend.kv_block_bytes(kv_shape(i)), backend.mapped_bytes(), backend.free_bytes()});
    }
    return memory;
  }
  void allocate_kv(int blocks) override {
    for (int i = 0; i < placement_->backends(); ++i)
      caches_.push_back(placement_->layers_on(i) > 0 ? placement_->backend(i).kv_cache(kv_shape(i), blocks)
                                                     : nullptr);
  }
  void read_kv(int32_t block, std::byte* out) override {
    for_caches([&](Backend& backend, KvCache& cache, int64_t bytes) {
      backend.read_block(cache, block, out);
      out += bytes;
    });
  }
  void write_kv(int32_t block, const std::byte* from) override {
    for_caches([&](Backend& backend, KvCache& cache, int64_t bytes) {
      backend.write_block(cache, block, from);
      from += bytes;
    });
  }

 protected:
  explicit Decoder(const Loader& load) : placement_(load.placement()) {
    config_ = load.config();
    shape_ = load.decoder_shape();
    embedding_ = load.embedding(config_.vocab, config_.dim);
    final_norm_ = load.norm("output_norm", config_.dim, shape_.norm_eps);
    head_ = load.output(config_.vocab, config_.dim);
  }

  static std::string block(int layer) { return "blk." + std::to_string(layer) + "."; }
  Step begin(const Batch& batch) { return Step(*placement_, caches_, batch); }
  static Result result(const Value& x) { return {x.backend, x.tensor}; }
  // Logits and states of the rows that want them.
  Output output(Step& s, const Value& x) {
    Output out;
    s.boundary(shape_.layers, x);
    if (const auto& rows = s.batch().sampled_rows; !rows.empty())
      out.logits = result(head_(final_norm_(s.rows_of(x, rows))));
    if (const auto& rows = s.batch().state_rows; !rows.empty()) {
      const Value states = s.rows_of(x, rows);
      final_norm_.in_place(states);
      out.states = result(states);
    }
    placement_->head().start();
    return out;
  }

  std::shared_ptr<const Placement> placement_;  // first: outlives everything that was made by its backends
  DecoderShape shape_;
  std::unique_ptr<Weight> embedding_;
  Norm final_norm_{};
  Linear head_;

 private:
  KvShape kv_shape(int backend) const {
    return {placement_->layers_on(backend), shape_.attention.kv_heads, shape_.attention.head_dim};
  }
  // Calls f(backend, its cache, bytes of a block there).
  template <typename F>
  void for_caches(F&& f) {
    for (size_t i = 0; i < caches_.size(); ++i) {
      Backend& backend = placement_->backend(static_cast<int>(i));
      if (caches_[i]) f(backend, *caches_[i], backend.kv_block_bytes(kv_shape(static_cast<int>(i))));
    }
  }

  std::vector<std::unique_ptr<KvCache>> caches_;  // [backend], none where no layers are
};

}  // namespace pyllm
