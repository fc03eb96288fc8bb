// What models are made of: values that know their backend, layers that know their weights, and a step that runs
// them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "core/batch.h"
#include "model/placement.h"

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
  struct Frequency {
    Backend* backend;
    std::unique_ptr<Vector> values;  // [rotated features / 2]
  };
  std::vector<Frequency> frequency;  // one for each backend that has layers
  float magnitude = 1.0f;            // YaRN's attention factor
  RopePairs pairs = RopePairs::Halves;
};

// Cosines and sines of a step's positions, on each of these backends.
struct RopeTable {
  std::vector<Value> on;

  const Tensor& beside(const Value& x) const {
    return std::find_if(on.begin(), on.end(), [&](const Value& table) { return table.backend == x.backend; })
        ->tensor;
  }
};

// What becomes of queries and keys on their way to attention.
struct Turn {
  const Rope& rope;
  const RopeTable& table;
  const Norm* q_norm = nullptr;  // over every head; both or none, of one epsilon
  const Norm* k_norm = nullptr;

  Rotation beside(const Value& x) const {
    Rotation rotation{table.beside(x), rope.pairs};
    if (q_norm != nullptr) {
      rotation.q_norm = q_norm->weight.get();
      rotation.k_norm = k_norm->weight.get();
      rotation.eps = q_norm->eps;
    }
    return rotation;
  }
};

// [q | k | v] as three views.
inline std::array<Value, 3> split_qkv(const Value& qkv, const AttentionShape& a) {
  const int64_t q = int64_t{a.heads} * a.head_dim, kv = int64_t{a.kv_heads} * a.head_dim;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

// One forward pass over a batch.
class Step {
 public:
  // caches: [backend], of the layers there.
  Step(const Placement& placement, std::span<const std::unique_ptr<KvCache>> caches, const Batch& batch)
      : placement_(placement), caches_(caches), batch_(batch) {
    for (int i = 0; i < placement.backends(); ++i) {
      placement.backend(i).begin(batch);
      if (const auto& cache = caches[static_cast<size_t>(i)]) placement.backend(i).copy_blocks(*cache);
    }
  }

  Value embed(const Weight& table, float scale = 1.0f) {
    Value x = scratch(placement_.embedding(), rows(), table.cols);
    x.backend->embed(table, scale, x.tensor);
    return x;
  }
  // Cosines and sines of the batch's positions, shared by all layers.
  RopeTable rope_table(const Rope& rope) {
    RopeTable table;
    for (const auto& [backend, frequency] : rope.frequency) {
      const int64_t size = (rope.pairs == RopePairs::Halves ? 2 : 4) * frequency->size;
      table.on.push_back(scratch(*backend, rows(), size));
      backend->rope_table(*frequency, rope.magnitude, rope.pairs, table.on.back().tensor);
    }
    return table;
  }
  // Normalises the heads of q and k where it is told how, rotates them, stores k and v in the cache, then
  // attends to everything each token may see.
  Value attend(int layer, const Value& q, const Value& k, const Value& v, const AttentionShape& shape,
               const Turn& turn) {
    KvCache& cache = *caches_[static_cast<size_t>(placement_.backend_of(layer))];
    const int index = placement_.index_of(layer);
    q.backend->store_kv(cache, index, q.tensor, k.tensor, v.tensor, turn.beside(q));
    Value y = scratch(*q.backend, rows(), q.tensor.cols);
    q.backend->attend(cache, index, q.tensor, shape, y.tensor);
    return y;
  }
  // A copy of some rows, where the head is.
  Value rows_of(const Value& x, const std::vector<int32_t>& rows) {
    Value y = scratch(*x.backend, static_cast<int64_t>(rows.size()), x.tensor.cols);
    x.backend->gather_rows(x.tensor, rows, y.tensor);
    return moved(y, placement_.head());
  }
  // x is the hidden state before layer `index`, or after the last one.
  void boundary(int index, const Value& x) {
    if (Activations* activations = placement_.activations())
      activations->boundary(index, x.backend->download(x.tensor));
  }
  const Batch& batch() const { return batch_; }

  // One layer's part of the step: x comes to the layer's backend, and the scratch taken there during its life
  // is free again afterwards.
  class Scope {
   public:
    Scope(Step& step, int layer, Value& x) : backend_(step.placement_.layer(layer)) {
      step.boundary(layer, x);
      x = step.moved(x, backend_);
      mark_ = backend_.mark();
    }
    ~Scope() { backend_.release(mark_); }
    Scope(const Scope&) = delete;

   private:
    Backend& backend_;
    int64_t mark_;
  };

 private:
  int64_t rows() const { return static_cast<int64_t>(batch_.tokens.size()); }
  static Value scratch(Backend& backend, int64_t rows, int64_t cols) {
    return {&backend, backend.scratch(rows, cols)};
  }
  static Value moved(const Value& x, Backend& to) {
    if (x.backend == &to) return x;
    Value y = scratch(to, x.tensor.rows, x.tensor.cols);
    to.upload(x.backend->download(x.tensor), y.tensor);
    return y;
  }

  const Placement& placement_;
  std::span<const std::unique_ptr<KvCache>> caches_;
  const Batch& batch_;
};

}  // namespace pyllm
