// A backend that also tells an Activations what its matrices read. Models run on it as on any other.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "model/activations.h"

namespace pyllm {

class RecordingBackend : public Backend {
 public:
  RecordingBackend(std::unique_ptr<Backend> inner, std::shared_ptr<Activations> activations)
      : inner_(std::move(inner)), activations_(std::move(activations)) {}

  std::unique_ptr<Weight> matrix(const WeightSource& source) override {
    auto weight = inner_->matrix(source);
    names_[weight.get()] = source.name;
    return weight;
  }
  std::unique_ptr<Vector> vector(std::span<const float> values) override {
    auto vector = inner_->vector(values);
    values_[vector.get()].assign(values.begin(), values.end());
    return vector;
  }
  void matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) override {
    std::vector<std::string_view> names;
    for (const Factor& factor : factors) names.push_back(names_.at(factor.weight));
    Input here = input;
    here.x = inner_->download(input.x);
    std::span<const float> norm;
    if (input.weight != nullptr) norm = values_.at(input.weight);
    activations_->product(names, here, norm);
    inner_->matmul(factors, input, out, add);
  }

  std::unique_ptr<Weight> embedding(const WeightSource& source) override { return inner_->embedding(source); }
  int64_t mapped_bytes() const override { return inner_->mapped_bytes(); }
  std::optional<int64_t> free_bytes() const override { return inner_->free_bytes(); }
  int64_t kv_block_bytes(const KvShape& shape) const override { return inner_->kv_block_bytes(shape); }
  std::unique_ptr<KvCache> kv_cache(const KvShape& shape, int blocks) override {
    return inner_->kv_cache(shape, blocks);
  }
  void read_block(const KvCache& cache, int32_t block, std::byte* out) override {
    inner_->read_block(cache, block, out);
  }
  void write_block(KvCache& cache, int32_t block, const std::byte* from) override {
    inner_->write_block(cache, block, from);
  }
  void begin(const Batch& batch) override { inner_->begin(batch); }
  Tensor scratch(int64_t rows, int64_t cols) override { return inner_->scratch(rows, cols); }
  int64_t mark() const override { return inner_->mark(); }
  void release(int64_t mark) override { inner_->release(mark); }
  void embed(const Weight& table, float scale, Tensor out) override { inner_->embed(table, scale, out); }
  void rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) override {
    inner_->rms_norm(x, weight, eps, group, out, add);
  }
  void rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) override {
    inner_->rope_table(frequency, magnitude, pairs, out);
  }
  void copy_blocks(KvCache& cache) override { inner_->copy_blocks(cache); }
  void store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) override {
    inner_->store_kv(cache, layer, q, k, v, rotation);
  }
  void start() override { inner_->start(); }
  bool chooses() const override { return inner_->chooses(); }
  std::vector<Chosen> choose(Tensor logits, std::span<const Choice> choices) override {
    return inner_->choose(logits, choices);
  }
  void attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) override {
    inner_->attend(cache, layer, q, shape, out);
  }
  void gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) override {
    inner_->gather_rows(x, rows, out);
  }
  Tensor download(Tensor x) override { return inner_->download(x); }
  void upload(Tensor host, Tensor out) override { inner_->upload(host, out); }

 private:
  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Activations> activations_;
  std::unordered_map<const Weight*, std::string> names_;
  std::unordered_map<const Vector*, std::vector<float>> values_;
};

}  // namespace pyllm
