// Packing a panel at the speed that running from the file's layout needs: the codes of 16 rows are unpacked row
// by row, transposed as quads and put into bit planes. Its twin, for every type and for panels that lack rows,
// is backend/cpu/pack.cc.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"
#include "quant/types.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

using quant::Scales;

#if defined(__AVX2__)
inline void transpose_half(const uint8_t* rows, int64_t stride, uint8_t* quads) {
  __m256i a[8], b[8];
  for (int r = 0; r < 8; ++r) a[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + r * stride));
  for (int r = 0; r < 8; r += 2) {
    b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
    b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
  }
  for (int r = 0; r < 8; r += 4)
    for (int i = 0; i < 2; ++i) {
      a[r + 2 * i] = _mm256_unpacklo_epi64(b[r + i], b[r + i + 2]);
      a[r + 2 * i + 1] = _mm256_unpackhi_epi64(b[r + i], b[r + i + 2]);
    }
  for (int q = 0; q < 4; ++q) {
    auto* low = reinterpret_cast<__m256i*>(quads + 64 * q);
    auto* high = reinterpret_cast<__m256i*>(quads + 64 * (q + 4));
    _mm256_storeu_si256(low, _mm256_permute2x128_si256(a[q], a[q + 4], 0x20));
    _mm256_storeu_si256(high, _mm256_permute2x128_si256(a[q], a[q + 4], 0x31));
  }
}
#endif

// rows [16][32 bytes], `stride` bytes apart, to quads [8][16][4 bytes].
inline void transpose(const uint8_t* rows, int64_t stride, uint8_t* quads) {
#if defined(__AVX2__)
  transpose_half(rows, stride, quads);
  transpose_half(rows + 8 * stride, stride, quads + 32);
#else
  for (int q = 0; q < 8; ++q)
    for (int r = 0; r < kPanelRows; ++r) __builtin_memcpy(quads + 64 * q + 4 * r, rows + r * stride + 4 * q, 4);
#endif
}

// Quads 4 kFirst to 4 kFirst + 3: two bits of each, from bit kLow on, to one byte.
template <int kFirst, int kLow>
inline u8x64 two_bits(const uint8_t* quads) {
  const uint8_t* q = quads + 256 * kFirst;
  return either(either(bits<kLow, 3, 0>(load_bytes(q)), bits<kLow, 3, 2>(load_bytes(q + 64))),
                either(bits<kLow, 3, 4>(load_bytes(q + 128)), bits<kLow, 3, 6>(load_bytes(q + 192))));
}

// The planes of one step (layout.h).
template <Layout L>
inline void pack_step(const uint8_t* rows, int64_t stride, uint8_t* step) {
  constexpr int n = L.code_bits, low = n >= 4 ? 4 : 0;
  if constexpr (n == 8) return transpose(rows, stride, step);
  alignas(64) uint8_t quads[512];
  transpose(rows, stride, quads);
  if constexpr (n >= 4)
    for (int q = 0; q < 4; ++q, step += 64)
      store_bytes(step, either(bits<0, 15>(load_bytes(quads + 64 * q)),
                               bits<0, 15, 4>(load_bytes(quads + 64 * (q + 4)))));
  if constexpr (n == 2 || n == 3 || n == 6) {
    store_bytes(step, two_bits<0, low>(quads));
    store_bytes(step + 64, two_bits<1, low>(quads));
    step += 128;
  }
  if constexpr (n == 3 || n == 5) {
    const auto top = [&]<int q>() { return bits<n - 1, 1, q>(load_bytes(quads + 64 * q)); };
    const u8x64 first = either(either(top.template operator()<0>(), top.template operator()<1>()),
                               either(top.template operator()<2>(), top.template operator()<3>()));
    const u8x64 second = either(either(top.template operator()<4>(), top.template operator()<5>()),
                                either(top.template operator()<6>(), top.template operator()<7>()));
    store_bytes(step, either(first, second));
  }
}

// Scales and mins of a column of 16 blocks; returns where the next one's go.
template <typename Q>
inline uint8_t* pack_scales(const typename Q::Block* first, int64_t stride, uint8_t* to) {
  constexpr int groups = Q::block / Q::group, parts = Q::has_min ? 2 : 1;
  if constexpr (Q::scales == Scales::Super) {
    uint8_t* integers = to + 32 * parts;
    for (int r = 0; r < kPanelRows; ++r) {
      const quant::SuperScales s = Q::super(first[r * stride]);
      __builtin_memcpy(to + 2 * r, &s.d, 2);
      if (Q::has_min) __builtin_memcpy(to + 32 + 2 * r, &s.dmin, 2);
      for (int g = 0; g < groups; ++g) {
        integers[g * parts * 16 + r] = static_cast<uint8_t>(s.scale[g]);
        if (Q::has_min) integers[(g * parts + 1) * 16 + r] = s.min[g];
      }
    }
    return integers + 16 * groups * parts;
  } else {
    static_assert(groups == 1);
    for (int r = 0; r < kPanelRows; ++r) {
      const typename Q::Block& block = first[r * stride];
      __builtin_memcpy(to + 2 * r, &block.d, 2);
      if constexpr (Q::has_min) {  // m is added
        const auto minus = static_cast<uint16_t>(block.m.bits ^ 0x8000u);
        __builtin_memcpy(to + 32 + 2 * r, &minus, 2);
      }
    }
    return to + 32 * parts;
  }
}

// All codes of a block, in weight order.
template <typename Q>
inline void unpack_block(const typename Q::Block& block, uint8_t* out) {
  PYLLM_UNROLL
  for (int g = 0; g < Q::block / Q::group; ++g) Q::codes(block, g, out + g * Q::group);
}
template <>
inline void unpack_block<quant::Q6_K>(const quant::BlockQ6_K& block, uint8_t* out) {
  PYLLM_UNROLL
  for (int run = 0; run < 8; ++run, out += 32) {  // of 32 weights: twice the compiler's vectors
    const uint8_t *low = block.ql + run / 4 * 64 + run % 2 * 32, *high = block.qh + run / 4 * 32;
    for (int i = 0; i < 32; ++i)
      out[i] = static_cast<uint8_t>((low[i] >> run % 4 / 2 * 4 & 15) | (high[i] >> run % 4 * 2 & 3) << 4);
  }
}
#if defined(__AVX2__)
// 32 weights: low nibbles, then high ones.
inline __m256i nibbles(const uint8_t* p) {
  const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(pairs, 4), pairs), _mm256_set1_epi8(15));
}
// Bit i of 32 as the fifth bit of weight i.
inline __m256i fifth_bits(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), byte), bit);
  return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16));
}
#define PYLLM_X(Q, codes)                                                      \
  template <>                                                                  \
  inline void unpack_block<quant::Q>(const quant::Block##Q& b, uint8_t* out) { \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);               \
  }
PYLLM_X(Q4_0, nibbles(b.q))
PYLLM_X(Q4_1, nibbles(b.q))
PYLLM_X(IQ4_NL, nibbles(b.q))
PYLLM_X(Q5_0, _mm256_or_si256(nibbles(b.ql), fifth_bits(b.qh)))
PYLLM_X(Q5_1, _mm256_or_si256(nibbles(b.ql), fifth_bits(b.qh)))
#undef PYLLM_X
#endif

// Everything inlined: see layout.h.
template <typename Q>
[[gnu::flatten]] void pack(const void* data, int64_t columns, uint8_t* panel) {
  constexpr Layout L = layout_of<Q>();
  constexpr int64_t ahead = 1024 / sizeof(typename Q::Block);  // blocks that are fetched ahead
  const auto* source = static_cast<const typename Q::Block*>(data);
  const int64_t blocks = columns / Q::block;
  uint8_t* scales = panel;
  uint8_t* step = panel + L.scale_bytes(columns);
  for (uint8_t* p = step - 64; p < step; ++p) *p = 0;  // what the scales may leave
  // Codes of all rows wait here until they are surely out of the store buffer.
  constexpr int kRun = 256 / Q::block;
  alignas(64) uint8_t code[kPanelRows][256];
  for (int64_t b = 0; b < blocks; b += kRun) {
    const int here = blocks - b < kRun ? static_cast<int>(blocks - b) : kRun;
    for (int i = 0; i < here; ++i) scales = pack_scales<Q>(source + b + i, blocks, scales);
    for (int r = 0; r < kPanelRows; ++r) {
      const typename Q::Block* row = source + r * blocks + b;
      for (uint64_t i = 0; i < kRun * sizeof *row; i += 64)
        __builtin_prefetch(reinterpret_cast<const uint8_t*>(row + ahead) + i);
      for (int i = 0; i < here; ++i) unpack_block<Q>(row[i], code[r] + i * Q::block);
    }
    for (int k = 0; k < here * Q::block; k += kStep, step += L.step_bytes())
      pack_step<L>(code[0] + k, 256, step);
  }
}

}  // namespace

PackKernel pack_kernel(Type type) {
  switch (type) {
#define PYLLM_X(Q) \
  case Type::Q:    \
    return pack<quant::Q>;
    PYLLM_X(Q4_0)
    PYLLM_X(Q4_1)
    PYLLM_X(Q5_0)
    PYLLM_X(Q5_1)
    PYLLM_X(Q8_0)
    PYLLM_X(Q2_K)
    PYLLM_X(Q3_K)
    PYLLM_X(Q4_K)
    PYLLM_X(Q5_K)
    PYLLM_X(Q6_K)
    PYLLM_X(IQ4_NL)
    PYLLM_X(IQ4_XS)
#undef PYLLM_X
    default:
      return nullptr;
  }
}

}  // namespace pyllm::cpu::PYLLM_ISA
