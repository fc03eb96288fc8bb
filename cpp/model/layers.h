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

struct Linear;
struct Value;

// What the next product computes from its input's rows on the way in.
struct Pending {
  Backend* backend;
  Input input;
};

// A product that is computed where it is used: added to a value, or as one of its own.
struct Product {
  const Linear* linear;
  Pending input;

  operator Value() const;
};

// A tensor of the current step.
struct Value {
  Backend* backend;
  Tensor tensor;  // [row, feature]

  inline Value& operator+=(const Product& product);
  inline Value& operator+=(const Pending& norm);
  operator Pending() const { return {backend, {tensor}}; }
  Value columns(int64_t first, int64_t count) const { return {backend, tensor.columns(first, count)}; }
};

struct Norm {
  std::unique_ptr<Vector> weight;  // [group]
  float eps;

  // Normalises whole rows.
  Pending operator()(const Value& x) const {
    return {x.backend, {x.tensor, Input::Op::RmsNorm, weight.get(), eps}};
  }
  // Normalises every run of weight->size features: every head on its own.
  void in_place(const Value& x) const {
    x.backend->rms_norm(x.tensor, *weight, eps, weight->size, x.tensor, false);
  }
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
  Product operator()(const Pending& x) const { return {this, x}; }

  void multiply(const Pending& x, Tensor out, bool add) const {
    std::vector<Factor> factors;
    for (const Part& part : parts) factors.push_back({part.weight.get(), part.bias.get()});
    x.backend->matmul(factors, x.input, out, add);
  }
};

inline Product::operator Value() const {
  Backend* backend = input.backend;
  const Value y{backend, backend->scratch(input.input.x.rows, linear->rows())};
  linear->multiply(input, y.tensor, false);
  return y;
}
inline Value& Value::operator+=(const Product& product) {
  product.linear->multiply(product.input, tensor, true);
  return *this;
}
inline Value& Value::operator+=(const Pending& norm) {
  const Input& in = norm.input;
  backend->rms_norm(in.x, *in.weight, in.eps, in.cols(), tensor, true);
  return *this;
}

// silu(gate) * up and gelu(gate) * up of [gate | up].
inline Pending silu_gate(const Value& gate_up) {
  return {gate_up.backend, {gate_up.tensor, Input::Op::SiluGate}};
}
inline Pending gelu_gate(const Value& gate_up) {
  return {gate_up.backend, {gate_up.tensor, Input::Op::GeluGate}};
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
    const int64_t size = (rope.pairs == RopePairs::Halves ? 2 : 4) * rope.frequency->size;
    Value table{&backend_, backend_.scratch(rows(), size)};
    backend_.rope_table(*rope.frequency, rope.magnitude, rope.pairs, table.tensor);
    return table;
  }
  void rotate(const Value& q, const Value& k, const Rope& rope, const Value& table, int head_dim) {
    backend_.rope(q.tensor, k.tensor, head_dim, rope.pairs, table.tensor);
  }
  // Stores k and v in the cache, then attends to everything each token may see.
  Value attend(int layer, const Value& q, const Value& k, const Value& v, const AttentionShape& shape) {
    backend_.store_kv(cache_, layer, k.tensor, v.tensor);
    Value y{&backend_, backend_.scratch(rows(), q.tensor.cols)};
    backend_.attend(cache_, layer, q.tensor, shape, y.tensor);
    return y;
  }
  // A copy of some rows.
  Value rows_of(const Value& x, const std::vector<int32_t>& rows) {
    Value y{&backend_, backend_.scratch(static_cast<int64_t>(rows.size()), x.tensor.cols)};
    backend_.gather_rows(x.tensor, rows, y.tensor);
    return y;
  }
  Tensor download(const Value& x) { return backend_.download(x.tensor); }
  const Batch& batch() const { return batch_; }

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
