// What models are made of: values that know their backend, layers that know their weights, and a step that runs
// them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/batch.h"

namespace pyllm {

// A tensor of the current step.
struct Value {
  Backend* backend;
  Tensor tensor;  // [row, feature]

  Value& operator+=(const Value& y) {
    backend->add(tensor, y.tensor);
    return *this;
  }
  Value columns(int64_t first, int64_t count) const { return {backend, tensor.columns(first, count)}; }
};

struct Norm {
  std::unique_ptr<Vector> weight;  // [group]
  float eps;

  // Normalises every run of weight->size features: the whole row, or every head on its own.
  Value operator()(const Value& x) const {
    Value y{x.backend, x.backend->scratch(x.tensor.rows, x.tensor.cols)};
    x.backend->rms_norm(x.tensor, *weight, eps, weight->size, y.tensor);
    return y;
  }
  void in_place(const Value& x) const { x.backend->rms_norm(x.tensor, *weight, eps, weight->size, x.tensor); }
};

// One or several matrices over the same input; their results lie side by side.
struct Linear {
  struct Part {
    std::unique_ptr<Weight> weight;
    std::unique_ptr<Vector> bias;  // may be absent
  };
  std::vector<Part> parts;

  int64_t rows() const {
    int64_t sum = 0;
    for (const Part& part : parts) sum += part.weight->rows;
    return sum;
  }
  Value operator()(const Value& x) const {
    std::vector<Factor> factors;
    for (const Part& part : parts) factors.push_back({part.weight.get(), part.bias.get()});
    Value y{x.backend, x.backend->scratch(x.tensor.rows, rows())};
    x.backend->matmul(factors, x.tensor, y.tensor);
    return y;
  }
};

// silu(gate) * up and gelu(gate) * up of [gate | up].
inline Value silu_gate(const Value& gate_up) {
  const int64_t n = gate_up.tensor.cols / 2;
  Value y{gate_up.backend, gate_up.backend->scratch(gate_up.tensor.rows, n)};
  y.backend->silu_gate(gate_up.tensor.columns(0, n), gate_up.tensor.columns(n, n), y.tensor);
  return y;
}
inline Value gelu_gate(const Value& gate_up) {
  const int64_t n = gate_up.tensor.cols / 2;
  Value y{gate_up.backend, gate_up.backend->scratch(gate_up.tensor.rows, n)};
  y.backend->gelu_gate(gate_up.tensor.columns(0, n), gate_up.tensor.columns(n, n), y.tensor);
  return y;
}

// Rotary position embedding: an angular frequency per pair of features, after all scaling.
struct Rope {
  std::unique_ptr<Vector> frequency;  // [rotated features / 2]
  float magnitude = 1.0f;             // YaRN's attention factor
  RopePairs pairs = RopePairs::Halves;
};

// [q | k | v] as three views.
inline std::array<Value, 3> split_qkv(const Value& qkv, const AttentionShape& a) {
  const int64_t q = int64_t{a.heads} * a.head_dim, kv = int64_t{a.kv_heads} * a.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

// One forward pass over a batch.
class Step {
 public:
  Step(Backend& backend, KvCache& cache, const Batch& batch) : backend_(backend), cache_(cache), batch_(batch) {
    backend.begin(batch);
    backend.copy_blocks(cache);
  }

  Value embed(const Weight& table, float scale = 1.0f) {
    Value x{&backend_, backend_.scratch(rows(), table.cols)};
    backend_.embed(table, scale, x.tensor);
    return x;
  }
  // Cosines and sines of the batch's positions, shared by all layers.
  Value rope_table(const Rope& rope) {
    Value table{&backend_, backend_.scratch(rows(), 2 * rope.frequency->size)};
    backend_.rope_table(*rope.frequency, rope.magnitude, table.tensor);
    return table;
  }
  void rotate(const Value& x, const Rope& rope, const Value& table, int head_dim) {
    backend_.rope(x.tensor, head_dim, rope.pairs, table.tensor);
  }
  // Stores k and v in the cache, then attends to everything each token may see.
  Value attend(int layer, const Value& q, const Value& k, const Value& v, const AttentionShape& shape) {
    backend_.store_kv(cache_, layer, k.tensor, v.tensor);
    Value y{&backend_, backend_.scratch(rows(), q.tensor.cols)};
    backend_.attend(cache_, layer, q.tensor, shape, y.tensor);
    return y;
  }
  // The rows whose logits are wanted.
  Value sampled(const Value& x) {
    Value y{&backend_, backend_.scratch(static_cast<int64_t>(batch_.sampled_rows.size()), x.tensor.cols)};
    backend_.gather_rows(x.tensor, batch_.sampled_rows, y.tensor);
    return y;
  }
  Tensor download(const Value& x) { return backend_.download(x.tensor); }

  // Scratch taken during its life is free again afterwards.
  class Scope {
   public:
    explicit Scope(Step& step) : backend_(step.backend_), mark_(step.backend_.mark()) {}
    ~Scope() { backend_.release(mark_); }
    Scope(const Scope&) = delete;

   private:
    Backend& backend_;
    int64_t mark_;
  };

 private:
  int64_t rows() const { return static_cast<int64_t>(batch_.tokens.size()); }

  Backend& backend_;
  KvCache& cache_;
  const Batch& batch_;
};

}  // namespace pyllm
