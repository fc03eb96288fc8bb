// The CUDA backend: one device, one stream. What a step's kernels must know of the batch is worked out once, on
// the host, and goes over in one copy.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/step_graphs.h"
#include "backend/cuda/step_plan.h"

namespace pyllm::cuda {

class CudaMatrix : public Weight {
 public:
  Type type;
  const PackedKind* kind = nullptr;  // of quantized types
  DeviceMemory memory;               // packed, or as in the file
};

class CudaEmbedding : public Weight {
 public:
  Type type;
  DeviceMemory memory;
};

class CudaVector : public Vector {
 public:
  DeviceMemory memory;
};

class CudaKvCache : public KvCache {
 public:
  KvShape shape;
  KvLayout layout;
  DeviceMemory memory;  // [layer][block][kv head][layout.bytes]
  int64_t block_bytes() const { return static_cast<int64_t>(layout.bytes) * shape.kv_heads; }
  uint8_t* layer(int i) const { return memory.as<uint8_t>() + i * layer_bytes; }
  int64_t layer_bytes = 0;
};

// Bytes that a matrix takes on the device; -1: it cannot be multiplied there.
int64_t matrix_bytes(Type type, int64_t rows, int64_t cols);

class CudaBackend : public Backend {
 public:
  CudaBackend(int device, const BackendOptions& options);
  ~CudaBackend() override;

  std::unique_ptr<Weight> matrix(const WeightSource& source) override;
  std::unique_ptr<Weight> embedding(const WeightSource& source) override;
  std::unique_ptr<Vector> vector(std::span<const float> values) override;
  int64_t mapped_bytes() const override { return 0; }
  std::optional<int64_t> free_bytes() const override;
  int64_t kv_block_bytes(const KvShape& shape) const override;
  std::unique_ptr<KvCache> kv_cache(const KvShape& shape, int blocks) override;
  void read_block(const KvCache& cache, int32_t block, std::byte* out) override;
  void write_block(KvCache& cache, int32_t block, const std::byte* from) override;

  void begin(const Batch& batch) override;
  Tensor scratch(int64_t rows, int64_t cols) override;
  int64_t mark() const override { return arena_.mark(); }
  void release(int64_t mark) override { arena_.release(mark); }

  void embed(const Weight& table, float scale, Tensor out) override;
  void rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) override;
  void matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) override;
  void rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) override;
  void copy_blocks(KvCache& cache) override;
  void store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) override;
  void attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) override;
  void gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) override;
  void start() override { run_waiting(); }
  bool chooses() const override { return true; }
  std::vector<Chosen> choose(Tensor logits, std::span<const Choice> choices) override;
  Tensor download(Tensor x) override;
  void upload(Tensor host, Tensor out) override;

 private:
  void use_device() const;
  void leave_step();
  void run_waiting();
  // Rows that an op computes of a tensor.
  int32_t rows(const Tensor& x) const { return static_cast<int32_t>(plan_.padded(x.rows)); }
  void synchronize();
  void copy_in(const void* from, int64_t bytes, void* to);
  void multiply(std::span<const Factor> factors, const MatmulArgs& common, Tensor out);
  void multiply_unpacked(const Factor& factor, MatmulArgs args, Tensor out);
  DeviceMemory& staging(int64_t bytes);

  const int device_;
  const bool precise_;
  const KvElement kv_element_;
  int multiprocessors_ = 1;
  Stream stream_;
  Arena arena_;
  StepPlan plan_;
  StepGraphs graphs_;
  int part_ = 0;                       // of the step: lists of launches that have started
  PinnedMemory pieces_[2];             // of what is copied in
  DeviceMemory staging_;               // the file's blocks, while loading
  std::vector<PinnedMemory> results_;  // of this step's downloads
  size_t downloads_ = 0;
  PinnedMemory choices_;
  DeviceMemory choices_there_;
};

}  // namespace pyllm::cuda
