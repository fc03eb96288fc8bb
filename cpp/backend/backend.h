// The operations a device must provide. Models are written over these and know no device.
//
// Every op takes float32 tensors [row, feature] in the backend's memory; rows of all sequences of the step lie
// side by side. Ops run in order; results are on the host's side only after `download`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "backend/choice.h"
#include "core/batch.h"
#include "core/kv_type.h"
#include "core/tensor.h"
#include "core/type.h"

namespace pyllm {

namespace cpu {
class PackedWeights;
}

// A weight matrix as the file holds it: `rows` output features of `cols` input features each.
struct WeightSource {
  Type type;
  int64_t rows, cols;
  std::span<const std::byte> data;
  std::string_view name = {};  // under which its packed form is kept
};

// Whatever a backend keeps of a weight. Created and used by the same backend only.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows = 0, cols = 0;
};

// Floats in the backend's memory: norm weights, biases, RoPE frequencies.
class Vector {
 public:
  virtual ~Vector() = default;
  const float* data = nullptr;
  int64_t size = 0;
};

// The paged KV cache of all layers. Block i of a layer holds kBlockTokens tokens of every KV head.
class KvCache {
 public:
  virtual ~KvCache() = default;
};

struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

// One factor of a product that shares its input with others (q, k and v; gate and up).
struct Factor {
  const Weight* weight;
  const Vector* bias = nullptr;  // [rows], may be absent
};

// What a product reads: rows as they are, or what is computed from them on the way in.
struct Input {
  enum class Op {
    None,
    RmsNorm,   // over the whole row
    SiluGate,  // x holds [gate | up]: silu(gate) * up
    GeluGate,  // the same with gelu, the tanh form
  };
  Tensor x;
  Op op = Op::None;
  const Vector* weight = nullptr;  // of the norm
  float eps = 0.0f;

  int64_t cols() const { return op == Op::SiluGate || op == Op::GeluGate ? x.cols / 2 : x.cols; }
};

enum class RopePairs {
  Adjacent,  // feature 2i with 2i + 1: the GGUF layout of llama
  Halves,    // feature i with i + n/2: everyone else's
};

// What happens to the heads of queries and keys before attention: normalised, where there are weights, then
// rotated.
struct Rotation {
  Tensor table = {};  // as rope_table fills it, of n frequencies; no data: no rotation
  RopePairs pairs = RopePairs::Halves;
  const Vector* q_norm = nullptr;  // [head_dim]
  const Vector* k_norm = nullptr;
  float eps = 0.0f;
};

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.0f;    // of the scores, before the softmax
  int window = 0;        // a token sees itself and the window - 1 before it; 0: all
  float softcap = 0.0f;  // 0: none
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Loading. `source.data` must stay valid as long as the result.
  virtual std::unique_ptr<Weight> matrix(const WeightSource& source) = 0;     // for matmul
  virtual std::unique_ptr<Weight> embedding(const WeightSource& source) = 0;  // for embed
  virtual std::unique_ptr<Vector> vector(std::span<const float> values) = 0;
  // Bytes of weights that are read from files' mappings: the system counts them as free until they are used.
  virtual int64_t mapped_bytes() const = 0;
  // Of the memory that belongs to the device; none: it works in the host's.
  virtual std::optional<int64_t> free_bytes() const = 0;
  virtual int64_t kv_block_bytes(const KvShape& shape) const = 0;
  virtual std::unique_ptr<KvCache> kv_cache(const KvShape& shape, int blocks) = 0;
  // A block's keys and values, all layers of the cache, to and from kv_block_bytes of host memory, between
  // steps. What the bytes mean is the backend's own; any bytes are safe.
  virtual void read_block(const KvCache& cache, int32_t block, std::byte* out) = 0;
  virtual void write_block(KvCache& cache, int32_t block, const std::byte* from) = 0;

  // A step: `begin` forgets the scratch of the last one. The batch must live until the next begin.
  virtual void begin(const Batch& batch) = 0;
  virtual Tensor scratch(int64_t rows, int64_t cols) = 0;
  virtual int64_t mark() const = 0;        // scratch taken so far ...
  virtual void release(int64_t mark) = 0;  // ... and back to there

  // out[r] = table[tokens[r]] * scale
  virtual void embed(const Weight& table, float scale, Tensor out) = 0;
  // Normalises every run of `group` features by its root mean square; weight [group]. `add`: to what out holds.
  virtual void rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) = 0;
  // out = the input times each factor transposed, side by side in out's columns. `add`: to what out holds.
  virtual void matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) = 0;
  // Cosines and sines of the batch's positions times `frequency` [n], both times `magnitude`. Per row: for
  // halves [n cosines][n sines]; for adjacent pairs [2 n][2 n], each twice, the first sine of a pair negated.
  virtual void rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) = 0;
  virtual void copy_blocks(KvCache& cache) = 0;  // the batch's copies
  // Turns the heads of q, in place, and those of k (their first 2 n features; what k holds afterwards is
  // nobody's), and stores k and v. q may have no columns.
  virtual void store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) = 0;
  virtual void attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) = 0;
  virtual void gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) = 0;
  // Begins what has been asked for so far, and does not wait for it.
  virtual void start() {}
  // A token for each row of logits, which are overwritten; only where chooses().
  virtual bool chooses() const { return false; }
  virtual std::vector<Chosen> choose(Tensor logits, std::span<const Choice> choices);
  virtual Tensor download(Tensor x) = 0;             // to host memory, valid until the next begin
  virtual void upload(Tensor host, Tensor out) = 0;  // from host memory, free to change when it returns
};

inline std::vector<Chosen> Backend::choose(Tensor, std::span<const Choice>) {
  throw std::logic_error("this backend does not choose tokens");
}

struct BackendOptions {
  int threads = 0;
  const char* isa = "";
  // Activations of quantized products as two 8-bit parts, value and remainder, in place of one: about 15 bits,
  // for twice the arithmetic.
  bool precise = false;
  // false: weights stay as the file has them, and are packed panel by panel just before use.
  bool pack = true;
  std::shared_ptr<cpu::PackedWeights> packed =
      nullptr;  // where panels are kept; nullptr: the backend's own memory
  KvType kv_type{};
};
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);

}  // namespace pyllm
