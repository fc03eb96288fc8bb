// The CPU backend: packed weights, a paged KV cache, and ops that split rows or panels over a thread
// pool.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention_plan.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/packed_weights.h"
#include "core/thread_pool.h"

namespace pyllm::cpu {

class CpuMatrix : public Weight {
 public:
  Type type;
  const PackedType* packing = nullptr;  // of quantized types
  const std::byte* panels = nullptr;    // none: panels are expanded from `source` just before use
  int64_t panel_bytes = 0;
  std::span<const std::byte> source;
  int64_t panel_count() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

class CpuEmbedding : public Weight {
 public:
  Type type;
  std::span<const std::byte> source;
  int64_t row_bytes = 0;
};

class CpuVector : public Vector {
 public:
  std::vector<float> values;
};

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);

  std::unique_ptr<Weight> matrix(const WeightSource& source) override;
  std::unique_ptr<Weight> embedding(const WeightSource& source) override;
  std::unique_ptr<Vector> vector(std::span<const float> values) override;
  int64_t mapped_bytes() const override { return expanded_bytes_ + packed_->mapped_bytes(); }
  std::optional<int64_t> free_bytes() const override { return std::nullopt; }
  int64_t kv_block_bytes(const KvShape& shape) const override;
  std::unique_ptr<KvCache> kv_cache(const KvShape& shape, int blocks) override;

  void begin(const Batch& batch) override;
  Tensor scratch(int64_t rows, int64_t cols) override;
  int64_t mark() const override { return arena_.mark(); }
  void release(int64_t mark) override { arena_.release(mark); }

  void embed(const Weight& table, float scale, Tensor out) override;
  void rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) override;
  void matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) override;
  void rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) override;
  void read_block(const KvCache& cache, int32_t block, std::byte* out) override;
  void write_block(KvCache& cache, int32_t block, const std::byte* from) override;
  void copy_blocks(KvCache& cache) override;
  void store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) override;
  void attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) override;
  void gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) override;
  Tensor download(Tensor x) override { return x; }
  void upload(Tensor host, Tensor out) override;

 private:
  static int64_t grain_of(int64_t cost) {
    constexpr int64_t kGrainElements = 8192;  // a barrier costs about a microsecond
    return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(cost, 1));
  }
  // Calls f(row) for all rows, in parallel where rows x cost (elements each) is worth waking another thread.
  template <typename F>
  void for_rows(int64_t rows, int64_t cost, F&& f) {
    pool_.parallel_for(rows, grain_of(cost), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) f(r);
    });
  }
  const float* input_row(const Input& input, int64_t r, float* buffer) const;
  void matmul_precise(std::span<const Factor> factors, const Input& input, Tensor out, bool add);
  void matmul_quantized(std::span<const Factor> factors, const Input& input, Tensor out, bool add);
  void matmul_float(const Factor& factor, const Input& input, Tensor out, bool add);
  void rope(Tensor q, Tensor k, int head_dim, RopePairs pairs, Tensor table);
  void add_bias(const Vector& bias, Tensor out);
  const AttentionPlan& attention_plan(const AttentionShape& shape);

  const Kernels& kernels_;
  const bool precise_;
  const KvType kv_type_;
  ThreadPool pool_;
  const Batch* batch_ = nullptr;
  std::vector<int32_t> positions_;        // [row]
  std::vector<AttentionPlan> attention_;  // of this step, one for each shape of attention
  const bool pack_;
  std::shared_ptr<PackedWeights> packed_;  // all panels
  int64_t expanded_bytes_ = 0;             // of weights that are packed just before use
  Arena arena_;
};

}  // namespace pyllm::cpu
