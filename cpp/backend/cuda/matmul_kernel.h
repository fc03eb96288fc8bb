// Quantized products. A warp takes a slice of the columns of 16 or 32 rows: codes from wide loads, unpacked in
// registers, go through the tensor cores as exact integers, and per step of 32 columns
//     total = sum over its groups (dot * scale - sum * min);  acc += total * x.scale
// At the end the slices' sums are added in order. So a result has one order of operations, whatever else is
// computed beside it; only how many rows and activation columns a block covers depends on the batch.
#pragma once

#include "backend/cuda/intrinsics.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/layout.h"

namespace pyllm::cuda {

inline constexpr int kMatmulThreads = 32 * kSlices;

// N words that follow each other in memory, as wide as their alignment allows.
template <int N>
__device__ __forceinline__ void load_row(const uint8_t* p, uint32_t* to) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const uint4 v = load_once(reinterpret_cast<const uint4*>(p) + i / 4);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else if constexpr (N == 2) {
    const uint2 v = load_once(reinterpret_cast<const uint2*>(p));
    to[0] = v.x, to[1] = v.y;
  } else {
    static_assert(N == 1);
    to[0] = load_once(reinterpret_cast<const uint32_t*>(p));
  }
}

// A lane's N words of a plane: vectors of up to four, each vector of all lanes together.
template <int N>
__device__ __forceinline__ void load_plane(const uint8_t* plane, int lane, uint32_t* to) {
  constexpr int kVector = N < 4 ? N : 4;
#pragma unroll
  for (int i = 0; i < N; i += kVector)
    load_row<kVector>(plane + (i / kVector * 32 + lane) * kVector * 4, to + i);
}

// What a lane needs of a chunk: its codes, and the scales of its two rows.
template <typename L>
struct Chunk {
  uint32_t low[L::kLowWords];
  uint32_t high[L::kHighWords > 0 ? L::kHighWords : 1];
  uint32_t scales[2][L::kScaleBytes / 4];
  float d[2], dmin[2];

  __device__ __forceinline__ void load(const uint8_t* chunk, int lane) {
    load_plane<L::kLowWords>(chunk, lane, low);
    if constexpr (L::kHighWords > 0) load_plane<L::kHighWords>(chunk + L::kHighAt, lane, high);
    load_scales(chunk, lane);
  }
  // The codes of steps 2 pair and 2 pair + 1 only.
  __device__ __forceinline__ void load_pair(const uint8_t* chunk, int lane, int pair) {
    load_part<L::kLowWords, L::kLow>(chunk, lane, pair, low);
    if constexpr (L::kHighWords > 0) load_part<L::kHighWords, L::kHigh>(chunk + L::kHighAt, lane, pair, high);
  }
  template <int kWords, int kBits>
  __device__ __forceinline__ static void load_part(const uint8_t* plane, int lane, int pair, uint32_t* to) {
    constexpr int kVector = kWords < 4 ? kWords : 4, kPart = kBits < kVector ? kBits : kVector;
#pragma unroll
    for (int i = pair * kBits; i < (pair + 1) * kBits; i += kPart)
      load_row<kPart>(plane + ((i / kVector * 32 + lane) * kVector + i % kVector) * 4, to + i);
  }
  __device__ __forceinline__ void load_scales(const uint8_t* chunk, int lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = lane / 4 + 8 * r;
      load_row<L::kScaleBytes / 4>(chunk + L::kScalesAt + row * L::kScaleBytes, scales[r]);
      if constexpr (L::kScales == quant::Scales::Super) {
        const uint8_t* super = chunk + L::kSuperAt + row * L::kSuperBytes;
        if constexpr (L::kMin) {
          const uint32_t both = __ldg(reinterpret_cast<const uint32_t*>(super));
          d[r] = half_to_float(static_cast<uint16_t>(both));
          dmin[r] = half_to_float(static_cast<uint16_t>(both >> 16));
        } else {
          d[r] = half_to_float(__ldg(reinterpret_cast<const uint16_t*>(super)));
        }
      }
    }
  }

  // The scale (part 0) or min (part 1) of a group in row r.
  __device__ __forceinline__ float scale(int r, int group, int part) const {
    const int index = part * L::kGroups + group;
    if constexpr (L::kScales == quant::Scales::Super) {
      const uint32_t byte = scales[r][index / 4] >> 8 * (index % 4);
      if (part == 1) return dmin[r] * static_cast<float>(static_cast<uint8_t>(byte));
      return d[r] * static_cast<float>(static_cast<int8_t>(byte));
    } else if constexpr (L::kScales == quant::Scales::Half) {
      return half_to_float(static_cast<uint16_t>(scales[r][index / 2] >> 16 * (index % 2)));
    } else {
      return __int_as_float(static_cast<int>(scales[r][index]));
    }
  }

  // The codes of a step, as fragments.
  __device__ __forceinline__ void words(int step, const uint32_t (&table)[4], uint32_t (&w)[4]) const {
    if constexpr (L::kLow == 8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = low[4 * step + i];
    } else if constexpr (L::kTable) {
#pragma unroll
      for (int i = 0; i < 2; ++i) lookup(low[2 * step + i], table, w[2 * i], w[2 * i + 1]);
    } else if constexpr (L::kLow == 4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        w[2 * i] = low[2 * step + i] & 0x0f0f0f0fu;
        w[2 * i + 1] = low[2 * step + i] >> 4 & 0x0f0f0f0fu;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = low[step] >> 2 * i & 0x03030303u;
    }
    if constexpr (L::kHigh == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] |= (high[step] >> 2 * i & 0x03030303u) << L::kLow;
    }
    if constexpr (L::kHigh == 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] |= (high[step / 2] >> (4 * (step % 2) + i) & 0x01010101u) << L::kLow;
    }
  }

  // Eight nibbles through the table: three permutations for four of them.
  __device__ __forceinline__ static void lookup(uint32_t nibbles, const uint32_t (&table)[4], uint32_t& first,
                                                uint32_t& second) {
    const uint32_t index = nibbles & 0x77777777u;
    const uint32_t upper =
        (nibbles >> 1 & 0x44444444u) | 0x32103210u;  // the upper eight values where bit 3 is set
    first = __byte_perm(__byte_perm(table[0], table[1], index), __byte_perm(table[2], table[3], index), upper);
    second = __byte_perm(__byte_perm(table[0], table[1], index >> 16),
                         __byte_perm(table[2], table[3], index >> 16), upper >> 16);
  }
};

// The activations' side of a column: scale, and sums of a step's 32 and of its first 16 codes.
struct ColumnMeta {
  float scale;
  int sum, first;
  // Of group k.
  template <typename L>
  __device__ __forceinline__ int group_sum(int k) const {
    return L::kGroupsPerStep == 1 ? sum : k == 0 ? first : sum - first;
  }
};

__device__ __forceinline__ ColumnMeta column_meta(uint32_t scale, uint32_t sums) {
  return {__int_as_float(static_cast<int>(scale)), static_cast<int>(sums) >> 16, static_cast<int16_t>(sums)};
}

// kTiles: tiles of rows; kColumnTiles: tiles of 8 activation columns.
template <typename L, int kTiles, int kColumnTiles>
__global__ void __launch_bounds__(kMatmulThreads, kTiles > 1       ? 1
                                                  : L::kSteps == 8 ? 2
                                                                   : 3) matmul_kernel(const MatmulArgs a) {
  // As a float, kMagic + n is 1.5 * 2^23 + n for |n| < 2^22: the integer's conversion is a subtraction.
  constexpr int kMagic = 0x4b400000;
  constexpr float kMagicFloat = 12582912.0f;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const int column_blocks = (a.columns + 8 * kColumnTiles - 1) / (8 * kColumnTiles);
  const int first_column = static_cast<int>(blockIdx.x) % column_blocks * 8 * kColumnTiles;
  const int launch_tile = static_cast<int>(blockIdx.x) / column_blocks * kTiles;
  int index = 0;
  while (index + 1 < a.part_count && launch_tile >= a.parts[index + 1].first_tile) ++index;
  const MatmulPart& part = a.parts[index];
  const int tile = launch_tile - part.first_tile;

  // Few columns use every other place of a tile: then half the float arithmetic falls away.
  const bool sparse = kColumnTiles == 1 && a.columns <= 4;
  const int b_column = sparse ? g / 2 : g;
  const bool has_b = !sparse || g % 2 == 0;

  float acc[kTiles][kColumnTiles][4];
#pragma unroll
  for (int i = 0; i < kTiles * kColumnTiles * 4; ++i) (&acc[0][0][0])[i] = 0.0f;

  const int each = (a.chunks + kSlices - 1) / kSlices;
  const int begin = min(warp * each, a.chunks), end = min(begin + each, a.chunks);
  const int64_t tile_bytes = static_cast<int64_t>(a.chunks) * L::kChunkBytes;
  const uint8_t* weights = part.weights + tile * tile_bytes + static_cast<int64_t>(begin) * L::kChunkBytes;
  constexpr bool kAhead =
      kTiles == 1 && L::kSteps == 2;  // the next chunk's loads fly during this one's products
  Chunk<L> chunk[kTiles];
  if (a.weights_are_new) after_previous();
  // A first chunk of weights that have been there for long comes while the kernel ahead still runs.
  if (kTiles == 1 && begin < end) chunk[0].load(weights, lane);
  after_previous();
  for (int c = begin; c < end; ++c, weights += L::kChunkBytes) {
    Chunk<L> next;
    if constexpr (kAhead) {
      if (c + 1 < end) next.load(weights + L::kChunkBytes, lane);
    } else {
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
        if constexpr (kTiles > 1)
          chunk[m].load_scales(weights + m * tile_bytes, lane);
        else if (c > begin)
          chunk[m].load(weights, lane);
    }
    const int64_t pair = static_cast<int64_t>(c) * (L::kSteps / 2);
    uint4 b[kColumnTiles];
#pragma unroll
    for (int s = 0; s < L::kSteps; ++s) {
      if (s % 2 == 0) {
        if constexpr (kTiles > 1)
#pragma unroll
          for (int m = 0; m < kTiles; ++m) chunk[m].load_pair(weights + m * tile_bytes, lane, s / 2);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          const int column = first_column + 8 * n + b_column;
          b[n] = make_uint4(0, 0, 0, 0);
          if (has_b && column < a.columns)
            b[n] = __ldg(a.q + ((pair + s / 2) * a.padded_columns + column) * 4 + t);
        }
      }
      uint32_t w[kTiles][4];
      float scale[kTiles][2][L::kGroupsPerStep], low[kTiles][2][L::kGroupsPerStep];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        chunk[m].words(s, a.table, w[m]);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int k = 0; k < L::kGroupsPerStep; ++k) {
            scale[m][r][k] = chunk[m].scale(r, s * L::kGroupsPerStep + k, 0);
            if constexpr (L::kMin) low[m][r][k] = chunk[m].scale(r, s * L::kGroupsPerStep + k, 1);
          }
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const uint2* at = a.meta + (pair * 2 + s) * a.padded_columns + first_column + 8 * n;
        uint4 raw;
        if (sparse) {
          const uint2 one = __ldg(at + t);
          raw = make_uint4(one.x, one.y, one.x, one.y);
        } else {
          raw = __ldg(reinterpret_cast<const uint4*>(at + 2 * t));
        }
        const ColumnMeta meta[2] = {column_meta(raw.x, raw.y), column_meta(raw.z, raw.w)};
        const uint32_t b0 = s % 2 == 0 ? b[n].x : b[n].z, b1 = s % 2 == 0 ? b[n].y : b[n].w;
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          float total[4];
#pragma unroll
          for (int k = 0; k < L::kGroupsPerStep; ++k) {
            int dot[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
              dot[i] = L::kMin ? kMagic : kMagic - a.zero * meta[i % 2].group_sum<L>(k);
            if constexpr (L::kGroupsPerStep == 1)
              mma_u8s8_32(dot, w[m], b0, b1);
            else
              mma_u8s8_16(dot, w[m][2 * k], w[m][2 * k + 1], k == 0 ? b0 : b1);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (sparse && i % 2 == 1) continue;
              const float product = __int_as_float(dot[i]) - kMagicFloat;
              total[i] = k == 0 ? product * scale[m][i / 2][k] : fmaf(product, scale[m][i / 2][k], total[i]);
              if constexpr (L::kMin)
                total[i] = fmaf(-low[m][i / 2][k], static_cast<float>(meta[i % 2].group_sum<L>(k)), total[i]);
              if (k == L::kGroupsPerStep - 1) acc[m][n][i] = fmaf(total[i], meta[i % 2].scale, acc[m][n][i]);
            }
          }
        }
      }
    }
    if constexpr (kAhead) chunk[0] = next;
  }

  constexpr int kRows = kTiles * kTileRows, kPitch = kRows + 4, kAll = 8 * kColumnTiles * kPitch;
  float* partial = shared_memory<float>();  // [slice][column][kPitch]
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * n + (sparse ? t : 2 * t + i % 2);
        if (sparse && i % 2 == 1) continue;
        partial[warp * kAll + column * kPitch + m * kTileRows + g + i / 2 * 8] = acc[m][n][i];
      }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * 8 * kColumnTiles; i += kMatmulThreads) {
    const int column = first_column + i / kRows, row = tile * kTileRows + i % kRows;
    if (column >= a.columns || row >= part.rows) continue;
    const float* p = partial + i / kRows * kPitch + i % kRows;
    float sum = p[0];
#pragma unroll
    for (int slice = 1; slice < kSlices; ++slice) sum += p[slice * kAll];
    float* to = a.out + column * a.stride + part.column + row;
    if (a.add) sum = *to + sum;
    *to = part.bias != nullptr ? sum + part.bias[row] : sum;
  }
}

template <typename L, int kTiles, int kColumnTiles>
void launch_matmul(Stream& stream, const MatmulArgs& args) {
  const MatmulPart& last = args.parts[args.part_count - 1];
  const int tiles = last.first_tile / kTiles + (last.rows + kTileRows * kTiles - 1) / (kTileRows * kTiles);
  const int column_blocks = (args.columns + 8 * kColumnTiles - 1) / (8 * kColumnTiles);
  constexpr size_t kShared = sizeof(float) * kSlices * 8 * kColumnTiles * (kTiles * kTileRows + 4);
  stream.launch(&matmul_kernel<L, kTiles, kColumnTiles>, static_cast<unsigned>(tiles * column_blocks),
                kMatmulThreads, kShared, args);
}

template <typename L>
void matmul_with(Stream& stream, const MatmulArgs& args) {
  if (args.columns <= 8)
    launch_matmul<L, 1, 1>(stream, args);
  else
    launch_matmul<L, 2, 4>(stream, args);
}

}  // namespace pyllm::cuda
