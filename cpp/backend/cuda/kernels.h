// The kernels as host code calls them: one struct of arguments and one function each. All memory is the
// device's; tensors are float32 [row, feature], `stride` elements from row to row.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/launch.h"

namespace pyllm::cuda {

// Whether this build has code for the current device's generation: cudaSuccess, or the driver's answer.
cudaError_t kernels_run_here();

// What a packed type is to its kernels; nullptr for types that are not quantized.
struct PackedKind {
  int layout;  // products with the same layout, zero and table go into one launch
  int zero;
  uint32_t table[4];  // 16 values
  bool kept;          // packed at load, or just before use
  int chunk_columns;
  int64_t (*bytes)(int64_t rows, int64_t cols);
  // The file's blocks [rows][cols / block] to packed.
  void (*pack)(Stream& stream, const void* blocks, int64_t rows, int64_t cols, uint8_t* packed);
};
const PackedKind* packed_kind(Type type);

// One row of x a block: gate or norm, and then 8-bit activations or plain floats, or both.
struct QuantizeArgs {
  const float* x;
  int64_t stride;
  const float* weight;  // of the norm
  uint32_t* q;          // [pair of steps][column][4 t][4 words: even step's b0, b1, odd step's]; may be nullptr
  uint2* meta;          // [step][column]: scale, and sums of all 32 (high half) and of the first 16
  float* plain;         // [row][cols]; may be nullptr
  int rows, cols;
  int steps;        // even, with padding
  int columns;      // of q and meta: padded_columns
  int rest_column;  // where columns of what quantization leaves over begin; 0: none
  int op;           // Input::Op
  float eps;
  int padding;
};
void quantize(Stream& stream, const QuantizeArgs& args);

// Whole blocks of activation columns, of which a kernel takes 8 or 32.
constexpr int64_t padded_columns(int64_t columns) { return columns <= 8 ? 8 : (columns + 31) / 32 * 32; }

struct MatmulPart {
  const uint8_t* weights;
  const float* bias;   // may be nullptr
  int64_t column;      // of out
  int32_t first_tile;  // in the launch's order
  int32_t rows;
};
struct MatmulArgs {
  static constexpr int kParts = 4;
  MatmulPart parts[kParts];
  const uint4* q;
  const uint2* meta;
  float* out;
  int64_t stride;
  int32_t part_count, chunks, columns, padded_columns;
  int32_t add, zero;
  int32_t weights_are_new, padding;  // written by the launch just before
  uint32_t table[4];
};
// By layout number; false: not among this file's half of them.
bool matmul_a(Stream& stream, int layout, const MatmulArgs& args);
bool matmul_b(Stream& stream, int layout, const MatmulArgs& args);

// F32, F16 and BF16 weights [rows][cols] times plain activations.
struct FloatMatmulArgs {
  const void* weights;
  const float* x;  // [column][cols]
  const float* bias;
  float* out;
  int64_t stride;
  int32_t rows, cols, columns, add;
  Type type;
  int32_t padding;
};
void matmul_float(Stream& stream, const FloatMatmulArgs& args);

// out += or = whole + rest: the two halves of a precise product.
struct JoinArgs {
  const float* whole;
  const float* rest;
  const float* bias;
  float* out;
  int64_t from_stride, stride;
  int32_t rows, cols, add, padding;
};
void join(Stream& stream, const JoinArgs& args);

struct EmbedArgs {
  const void* table;  // the file's rows
  const int32_t* tokens;
  float* out;
  int64_t stride;
  int32_t rows, cols;
  float scale;
  Type type;
};
void embed(Stream& stream, const EmbedArgs& args);

struct NormArgs {
  const float* x;
  const float* weight;
  float* out;
  int64_t stride, out_stride;
  int32_t rows, cols, group, add;
  float eps;
  int32_t padding;
};
void rms_norm(Stream& stream, const NormArgs& args);

struct RopeTableArgs {
  const float* frequency;
  const int32_t* positions;
  float* out;
  int64_t stride;
  int32_t rows, n;
  float magnitude;
  int32_t halves;
};
void rope_table(Stream& stream, const RopeTableArgs& args);

struct GatherArgs {
  const float* x;
  const int32_t* rows;
  float* out;
  int64_t stride, out_stride;
  int32_t count, cols;
};
void gather(Stream& stream, const GatherArgs& args);

// A Choice as its kernel reads it.
struct ChoiceRow {
  double u;
  float temperature, top_p, log_min_p;
  int32_t top_k, logprob;
  int32_t first_edit, edits;
  int32_t mask;  // words before it; -1: none
};
struct ChooseArgs {
  float* logits;  // [row][vocab]
  int64_t stride;
  const ChoiceRow* rows;
  const LogitEdit* edits;
  const uint32_t* masks;
  float* originals;  // [edit]: what the logit was
  Chosen* out;       // [row]
  int32_t vocab, count;
};
void choose(Stream& stream, const ChooseArgs& args);

// A block of kBlockTokens tokens of one KV head: keys half or int8 [token][padded to 32], values
// [padded][token], then for 8 bits the scales as halves: keys' [token][segment of 32], values'
// [segment][token].
struct KvLayout {
  int32_t head_dim, padded_dim;
  int32_t bits8;
  int32_t values, key_scales, value_scales, bytes;
};
KvLayout kv_layout(KvElement element, int head_dim);

// Heads of q and k normalised and rotated (each where there is something for it), keys and values stored.
struct StoreArgs {
  float* q;
  const float *k, *v;
  const float* table;            // of rotary positions; may be nullptr
  const float *q_norm, *k_norm;  // may be nullptr
  const int32_t* slots;          // [row]: block * kBlockTokens + token; -1: stored nowhere
  uint8_t* layer;                // this layer's blocks [block][kv head]
  int64_t q_stride, k_stride, v_stride, table_stride;
  int32_t rows, q_heads, kv_heads, n, halves;  // n: pairs
  float eps;
  KvLayout kv;
  int32_t padding;
};
void store_kv(Stream& stream, const StoreArgs& args);

struct CopyArgs {
  uint8_t* cache;  // [layer][block][bytes]
  int64_t layer_bytes, block_bytes;
  int32_t layers, from, to, padding;
};
void copy_block(Stream& stream, const CopyArgs& args);

inline constexpr int kTileQueries = 16;
inline constexpr int kChunk =
    256;  // positions: a chunk's result is computed from scratch, chunks fold in order

// Consecutive rows of one sequence.
struct AttentionTile {
  int32_t first_row, rows;
  int32_t position;  // of the first row
  int32_t table;     // where the block table begins
};
struct AttendArgs {
  const float* q;
  const uint8_t* layer;
  const AttentionTile* tiles;
  const int32_t* tables;
  float* out;
  float* partial;  // [tile][kv head][chunk][query][head_dim + 2]; nullptr: chunks fold in the block
  int64_t q_stride, out_stride;
  int32_t tile_count, chunks;  // most of any tile
  int32_t group, group_tiles;  // heads of a KV head, and tiles that they take
  int32_t kv_heads, window;
  float scale, softcap;
  KvLayout kv;
  int32_t padding;
};
void attend(Stream& stream, const AttendArgs& args);

}  // namespace pyllm::cuda
