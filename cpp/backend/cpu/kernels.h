// The table of kernels that every instruction set provides. All of them give the same bits: lanes are fixed at
// 16, reductions halve the same way, and fused multiply-adds are written where they are meant.
#pragma once

#include <stdint.h>

#include "backend/cpu/layout.h"
#include "core/type.h"

namespace pyllm::cpu {

inline constexpr int kTileColumns = 16;  // most activation columns (tokens) that one matmul tile covers
inline constexpr int kTileQueries = 48;  // most query vectors that one attention tile covers
inline constexpr int kQueryGroup = 6;    // of them, how many lie interleaved
inline constexpr int kChunk = 256;  // positions of a KV chunk: its partial result never depends on the batch

// Quantized activations of one tile of `n` columns (n is 1, 2, 4, 8 or 16); step s holds 32 features.
struct ActivationTile {
  const int8_t* q;      // [step][column][32]
  const float* scale;   // [step][column]
  const int32_t* init;  // [step][column][2]: -zero * sum of each half of 16 (the first holds both for group 32)
  const float* sum;     // [step][column][2]: scale * sum, likewise; read only with mins
};

// out[column][0..15] (float, `stride` apart) = panel (16 rows x columns) times the tile; rows past `rows` are
// not stored.
using MatmulKernel = void (*)(const uint8_t* panel, int64_t columns, const uint8_t* table,
                              const ActivationTile& x, float* out, int64_t stride, int rows);
// The same for float panels [column][16 rows] and activations [feature][column].
using FloatMatmulKernel = void (*)(const void* panel, int64_t columns, const float* x, float* out,
                                   int64_t stride, int rows);

struct MatmulKernels {
  MatmulKernel tile[5];  // for 1, 2, 4, 8, 16 columns
};
struct FloatMatmulKernels {
  FloatMatmulKernel tile[5];
};

// Attention of up to kTileQueries query vectors over one chunk of positions of one KV head.
struct AttentionChunk {
  const float* q;  // [group of kQueryGroup queries][head_dim][kQueryGroup], scaled; scores are exponents of 2
  int queries;
  int head_dim;
  const uint8_t* const* blocks;  // [block]: half [head_dim][16 tokens]; then half [16 tokens][padded_dim]
  const uint8_t* const* next;    // four blocks that come afterwards and may be fetched ahead, or nullptr
  int64_t value_offset;          // bytes from a block's keys to its values
  int padded_dim;                // head_dim rounded up to 16
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

  // Quantizes 32-feature blocks of one token: q[s * stride + i], scale and the sums of both halves of each
  // step.
  void (*quantize)(const float* x, int64_t n, int8_t* q, int64_t q_stride, float* scale, int64_t scale_stride,
                   int32_t* sums /* [step][2], scale_stride pairs apart */);
  // out[i] = x[i] / rms(x) * weight[i], over n features.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*silu_gate)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_gate)(const float* gate, const float* up, int64_t n, float* out);  // the tanh form
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
