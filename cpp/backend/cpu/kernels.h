// The table of kernels that every instruction set provides. All of them give the same bits: lanes are fixed at
// 16, reductions halve the same way, and fused multiply-adds are written where they are meant.
#pragma once

#include <stdint.h>

#include "backend/cpu/layout.h"
#include "core/kv_type.h"
#include "core/type.h"

namespace pyllm::cpu {

inline constexpr int kTileColumns = 8;   // most activation columns (tokens) that one matmul tile covers
inline constexpr int kTileQueries = 48;  // most query vectors that one attention tile covers
inline constexpr int kQueryGroup = 6;    // of them, how many lie interleaved
inline constexpr int kChunk = 256;  // positions of a KV chunk: its partial result never depends on the batch

// Quantized activations of one tile of `n` columns (1, 2, 4 or 8); step s holds 32 features in `groups` groups.
struct ActivationTile {
  const int8_t* q;      // [step][column][32]
  const float* scale;   // [step][column]
  const int32_t* init;  // [step][group][column]: -zero * sum
  const float* sum;     // [step][group][column]: of the group's 8-bit activations; read only with mins
};

// Where a tile's results go: column c from data + c * stride on, `rows` of them.
struct OutputTile {
  float* data;
  int64_t stride;
  int rows;
  bool add;  // to what is there
};

// out = panels (16 rows x columns each, one after the other) times the tile.
using MatmulKernel = void (*)(const uint8_t* panel, int64_t columns, const uint8_t* table,
                              const ActivationTile& x, const OutputTile& out);
// The same for float panels [column][16 rows] and activations [feature][column].
using FloatMatmulKernel = void (*)(const void* panel, int64_t columns, const float* x, const OutputTile& out);

// Packs 16 whole rows of a matrix, the first of them at `data`, into a panel (layout.h).
using PackKernel = void (*)(const void* data, int64_t columns, uint8_t* panel);

struct MatmulKernels {
  MatmulKernel tile[2][4];  // for 1 and 2 panels; for 1, 2, 4, 8 columns
};
struct FloatMatmulKernels {
  FloatMatmulKernel tile[2][4];  // likewise
};

// Where a block of 16 tokens of one KV head keeps what, in bytes. Tokens are the lanes of keys, features those
// of values; padding is zero.
struct KvLayout {
  KvType type;
  int head_dim;
  int padded_dim;        // features of a value: head_dim and padding
  int64_t key_scales;    // half [group of 32 features][16 tokens]; before them the keys
                         //   half [head_dim][16], int8 [head_dim][16]
                         //   or [head_dim / 2][16] bytes with the even feature in the low four bits;
                         //   of 6 bits these are the low four, and behind them
  int64_t key_high;      //   [head_dim / 4][16] bytes with the high two, the first feature in the low bits
  int64_t values;        // half [16][padded_dim], int8 [16][padded_dim]
                         //   or [16][padded_dim / 32][16] bytes with features 0 to 15 in the low four bits
  int64_t value_scales;  // half [group][16]
  int64_t bytes;
};

// Attention of up to kTileQueries query vectors over one chunk of positions of one KV head.
struct AttentionChunk {
  const float* q;  // [group of kQueryGroup queries][head_dim][kQueryGroup], scaled; scores are exponents of 2
  int queries;
  KvLayout layout;
  const uint8_t* const* blocks;  // [block]
  const uint8_t* const* next;    // four blocks that come afterwards and may be fetched ahead, or nullptr
  const int* first;              // [query] positions it sees, counted from the chunk's start: first..last-1
  const int* last;
  float softcap;  // 0: none; otherwise scores are exponents of e
  float* scores;  // scratch [kTileQueries][kChunk]
  float* panel;   // scratch [max(head_dim, 64)][64]
  float* max;     // [query] out: largest score, -inf when it sees none
  float* sum;     // [query] out: sum of 2^(score - max)
  float* out;     // [query][padded_dim] out: sum of 2^(score - max) * value
};

struct Kernels {
  const char* name;
  const MatmulKernels* (*matmul)(const Layout& layout);  // nullptr: no kernel for it
  const FloatMatmulKernels* (*matmul_float)(Type type);
  PackKernel (*pack)(Type type);  // nullptr: only pack_panel knows how

  // Quantizes one token of a tile of `width` columns, 32 features at a time: q [step][width][32],
  // scale [step][width] and, for both halves of a step, sums [step][2][width].
  void (*quantize)(const float* x, int64_t n, int64_t width, int8_t* q, float* scale, int32_t* sums);
  // out[i] = x[i] / rms(x) * weight[i], over n features.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*silu_gate)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_gate)(const float* gate, const float* up, int64_t n, float* out);  // the tanh form
  // Rotates n pairs of one head: features i and i + n by table [n cosines][n sines], or features 2 i and 2 i +
  // 1 (n counts features) by table [n cosines][n sines], where both have theirs and the first sine is negated.
  void (*rope_halves)(float* head, const float* table, int64_t n);
  void (*rope_adjacent)(float* head, const float* table, int64_t n);
  void (*to_half)(const float* x, int64_t n, uint16_t* out);
  void (*attend)(const AttentionChunk& chunk);
  // Folds one chunk's result (max, sum, out) into a running one.
  void (*merge)(float* max, float* sum, float* out, float chunk_max, float chunk_sum, const float* chunk_out,
                int n);
  // Repeats the innermost integer dot product `steps` times over data in registers and L1: the machine's
  // ceiling.
  int64_t (*int8_ops)(int64_t steps);
};

}  // namespace pyllm::cpu
