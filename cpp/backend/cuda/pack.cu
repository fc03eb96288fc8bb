// From the file's blocks: packed weights, and embedding rows. Everything that depends on a type's block is
// here.
#include <algorithm>

#include "backend/cuda/intrinsics.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/layouts.h"

namespace pyllm::cuda {

namespace {

constexpr int kPackThreads = 128;

struct PackArgs {
  const void* blocks;
  uint8_t* packed;
  int64_t rows, cols;
  int64_t chunks;
};

// The words of two steps of a lane; codes [16 rows][L::kColumns].
template <typename L>
__device__ void pack_words(const uint8_t* codes, int lane, int pair, uint8_t* chunk) {
  const int g = lane / 4, t = lane % 4;
  uint32_t low[L::kLow], high[L::kHigh > 0 ? L::kHigh : 1];  // of both steps
  for (int i = 0; i < L::kLow; ++i) low[i] = 0;
  high[0] = 0;
  if constexpr (L::kHigh == 2) high[1] = 0;
  for (int s = 0; s < 2; ++s)
    for (int w = 0; w < 4; ++w)
      for (int j = 0; j < 4; ++j) {
        const int row = g + w % 2 * 8, column = (2 * pair + s) * kStep + w / 2 * 16 + 4 * t + j;
        const uint32_t code = codes[row * L::kColumns + column];
        const uint32_t bits = code & ((1u << L::kLow) - 1);
        if constexpr (L::kLow == 8) low[4 * s + w] |= bits << 8 * j;
        if constexpr (L::kLow == 4)
          low[2 * s + w / 2] |= bits << (L::kTable ? 16 * (w % 2) + 4 * j : 8 * j + 4 * (w % 2));
        if constexpr (L::kLow == 2) low[s] |= bits << (8 * j + 2 * w);
        if constexpr (L::kHigh == 2) high[s] |= code >> L::kLow << (8 * j + 2 * w);
        if constexpr (L::kHigh == 1) high[0] |= code >> L::kLow << (8 * j + 4 * s + w);
      }
  const auto put = [&](uint8_t* plane, int words, int of_pair, const uint32_t* from) {
    const int vector = words < 4 ? words : 4;
    for (int i = 0; i < of_pair; ++i) {
      const int word = pair * of_pair + i;
      reinterpret_cast<uint32_t*>(plane)[(word / vector * 32 + lane) * vector + word % vector] = from[i];
    }
  };
  put(chunk, L::kLowWords, L::kLow, low);
  if constexpr (L::kHigh > 0) put(chunk + L::kHighAt, L::kHighWords, L::kHigh, high);
}

template <typename Q>
__device__ void pack_scales(const typename Q::Block& block, int first_group, int row, uint8_t* chunk) {
  using L = LayoutOf<Q>;
  uint8_t* to = chunk + L::kScalesAt + row * L::kScaleBytes;
  if constexpr (L::kScales == quant::Scales::Super) {
    const quant::SuperScales s = Q::super(block);
    for (int g = 0; g < L::kGroups; ++g) {
      to[g] = static_cast<uint8_t>(s.scale[g]);
      if constexpr (L::kMin) to[L::kGroups + g] = s.min[g];
    }
    auto* super = reinterpret_cast<uint16_t*>(chunk + L::kSuperAt + row * L::kSuperBytes);
    super[0] = s.d.bits;
    if constexpr (L::kMin) super[1] = s.dmin.bits;
  } else {
    constexpr int parts = L::kMin ? 2 : 1,
                  here = L::kGroups < Q::block / Q::group ? L::kGroups : Q::block / Q::group;
    for (int g = 0; g < here; ++g) {
      const quant::ScaleMin s = Q::scale_min(block, (first_group + g) % (Q::block / Q::group));
      for (int part = 0; part < parts; ++part) {
        const float value = part == 0 ? s.scale : s.min;
        const int index = part * L::kGroups + first_group % L::kGroups + g;
        if constexpr (L::kScales == quant::Scales::Half)
          reinterpret_cast<uint16_t*>(to)[index] = to_half(value).bits;  // exact
        else
          reinterpret_cast<float*>(to)[index] = value;
      }
    }
  }
}

// A block of threads a chunk of a tile: codes to shared memory, then words.
template <typename Q>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const PackArgs a) {
  after_previous();
  using L = LayoutOf<Q>;
  constexpr int kGroupsOfBlock = Q::block / Q::group;
  const int64_t tile = blockIdx.x / a.chunks, c = blockIdx.x % a.chunks;
  uint8_t* chunk = a.packed + (tile * a.chunks + c) * L::kChunkBytes;
  auto* codes = shared_memory<uint8_t>();
  const auto* blocks = static_cast<const typename Q::Block*>(a.blocks);
  const int64_t row_blocks = a.cols / Q::block;
  const auto block_of = [&](int64_t row, int64_t column) -> const typename Q::Block* {
    if (row >= a.rows || column >= a.cols) return nullptr;
    return blocks + row * row_blocks + column / Q::block;
  };
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * L::kGroups; i += kPackThreads) {
    const int row = i / L::kGroups, group = i % L::kGroups;
    const int64_t column = c * L::kColumns + group * L::kGroup;
    uint8_t* to = codes + row * L::kColumns + group * L::kGroup;
    if (const auto* block = block_of(tile * kTileRows + row, column))
      Q::codes(*block, static_cast<int>(column % Q::block / Q::group), to);
    else
      for (int k = 0; k < L::kGroup; ++k) to[k] = 0;
  }
  for (int row = static_cast<int>(threadIdx.x); row < kTileRows; row += kPackThreads) {
    uint8_t* scales = chunk + L::kScalesAt + row * L::kScaleBytes;
    for (int i = 0; i < L::kScaleBytes; ++i) scales[i] = 0;
    for (int i = 0; i < L::kSuperBytes; ++i) chunk[L::kSuperAt + row * L::kSuperBytes + i] = 0;
    // Blocks of a chunk, or the chunk's part of a block.
    for (int group = 0; group < L::kGroups; group += kGroupsOfBlock) {
      const int64_t column = c * L::kColumns + group * L::kGroup;
      if (const auto* block = block_of(tile * kTileRows + row, column)) {
        const int in_block = static_cast<int>(column % Q::block / Q::group);
        pack_scales<Q>(*block, kGroupsOfBlock > L::kGroups ? in_block : group, row, chunk);
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 32 * L::kSteps / 2; i += kPackThreads)
    pack_words<L>(codes, i % 32, i / 32, chunk);
}

template <typename Q>
void pack(Stream& stream, const void* blocks, int64_t rows, int64_t cols, uint8_t* packed) {
  using L = LayoutOf<Q>;
  const PackedShape shape = packed_shape<L>(rows, cols);
  stream.launch(&pack_kernel<Q>, static_cast<unsigned>(shape.tiles * shape.chunks), kPackThreads,
                size_t{kTileRows} * L::kColumns, PackArgs{blocks, packed, rows, cols, shape.chunks});
}

template <typename Q>
const PackedKind* kind() {
  static const PackedKind kind = [] {
    PackedKind k{layout_number<Q>(),
                 Q::zero,
                 {},
                 kept_packed<Q>(),
                 LayoutOf<Q>::kColumns,
                 [](int64_t rows, int64_t cols) { return packed_shape<LayoutOf<Q>>(rows, cols).bytes; },
                 pack<Q>};
    if constexpr (quant::has_table<Q>)
      for (int i = 0; i < 16; ++i) k.table[i / 4] |= static_cast<uint32_t>(Q::table[i]) << 8 * (i % 4);
    return k;
  }();
  return &kind;
}

// Eight values of a type's table.
template <typename Q>
constexpr uint64_t table_word(int first) {
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= static_cast<uint64_t>(Q::table[first + i]) << 8 * i;
  return word;
}
template <typename Q>
struct Table {
  static constexpr uint64_t low = table_word<Q>(0), high = table_word<Q>(8);
};

// Embedding rows: a thread a group of 32 columns, or what the row has left of it.
struct AsQuant {
  template <typename Q>
  static __device__ void run(const EmbedArgs& a, int64_t row, int column, float* out) {
    const auto& block =
        static_cast<const typename Q::Block*>(a.table)[row * (a.cols / Q::block) + column / Q::block];
    for (int part = 0; part < kStep / Q::group; ++part) {
      const int g = column % Q::block / Q::group + part;
      const quant::ScaleMin s = quant::scale_min<Q>(block, g);
      uint8_t code[Q::group];
      Q::codes(block, g, code);
      for (int i = 0; i < Q::group; ++i) {
        int value = code[i];
        if constexpr (quant::has_table<Q>) {  // device code has the table's values, not its address
          const uint64_t eight = value < 8 ? Table<Q>::low : Table<Q>::high;
          value = static_cast<int>(eight >> 8 * (value & 7) & 255);
        }
        const float w = s.scale * static_cast<float>(value - Q::zero);
        out[part * Q::group + i] = Q::has_min ? w - s.min : w;
      }
    }
  }
};

constexpr int kEmbedThreads = 64;

// Calls f(row of the table, column, columns) for this thread's part.
template <typename F>
__device__ void for_parts(const EmbedArgs& a, F f) {
  const int parts = (a.cols + kStep - 1) / kStep;
  const int64_t row = a.tokens[blockIdx.y];
  for (int p = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); p < parts;
       p += static_cast<int>(gridDim.x * blockDim.x))
    f(row, p * kStep, min(kStep, a.cols - p * kStep));
}

template <typename Q>
__global__ void __launch_bounds__(kEmbedThreads) embed_kernel(const EmbedArgs a) {
  after_previous();
  for_parts(a, [&](int64_t row, int column, int) {
    float values[kStep];
    AsQuant::run<Q>(a, row, column, values);
    float* out = a.out + blockIdx.y * a.stride + column;
    for (int i = 0; i < kStep; ++i) out[i] = a.scale == 1.0f ? values[i] : values[i] * a.scale;
  });
}

__device__ inline float as_float(float x) { return x; }
__device__ inline float as_float(half x) { return half_to_float(x.bits); }
__device__ inline float as_float(bfloat16 x) { return to_float(x); }

template <typename Number>
__global__ void __launch_bounds__(kEmbedThreads) embed_float_kernel(const EmbedArgs a) {
  after_previous();
  for_parts(a, [&](int64_t row, int column, int columns) {
    const Number* from = static_cast<const Number*>(a.table) + row * a.cols + column;
    float* out = a.out + blockIdx.y * a.stride + column;
    for (int i = 0; i < columns; ++i)
      out[i] = a.scale == 1.0f ? as_float(from[i]) : as_float(from[i]) * a.scale;
  });
}

}  // namespace

const PackedKind* packed_kind(Type type) {
  const PackedKind* found = nullptr;
  quant::visit(type, [&]<typename Q>() { found = kind<Q>(); });
  return found;
}

void embed(Stream& stream, const EmbedArgs& args) {
  const auto go = [&](void (*kernel)(EmbedArgs)) {
    const int parts = (args.cols + kStep - 1) / kStep;
    constexpr int kRows = 65535;  // the most that a grid has in y
    for (int first = 0; first < args.rows; first += kRows) {
      EmbedArgs some = args;
      some.tokens += first;
      some.out += first * args.stride;
      some.rows = std::min(kRows, args.rows - first);
      stream.launch(kernel,
                    dim3(static_cast<unsigned>((parts + kEmbedThreads - 1) / kEmbedThreads),
                         static_cast<unsigned>(some.rows)),
                    kEmbedThreads, 0, some);
    }
  };
  if (args.type == Type::F32) return go(&embed_float_kernel<float>);
  if (args.type == Type::F16) return go(&embed_float_kernel<half>);
  if (args.type == Type::BF16) return go(&embed_float_kernel<bfloat16>);
  quant::visit(args.type, [&]<typename Q>() { go(&embed_kernel<Q>); });
}

}  // namespace pyllm::cuda
