// Sixteen lanes in one AVX-512 register; integer dot products by VNNI.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "backend/cpu/simd/x86.h"

namespace pyllm::cpu::PYLLM_ISA {

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct u8x64 {
  __m512i v;
};

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }

inline f32x16 set(float x) { return {_mm512_set1_ps(x)}; }
inline f32x16 zero() { return {_mm512_setzero_ps()}; }
// Keeps x in a register, where the compiler would load it anew for every use.
inline void in_register(f32x16& x) { asm("" : "+v"(x.v)); }
inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 load_partial(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline f32x16 load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline f32x16 load_bfloat16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline f32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline f32x16 load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
template <int kShift, int kMask>
inline f32x16 load_bits(const uint8_t* p) {
  __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  if constexpr (kShift > 0) bytes = _mm512_srli_epi32(bytes, kShift);
  if constexpr (kMask < 255 >> kShift) bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(kMask));
  return {_mm512_cvtepi32_ps(bytes)};
}
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline void store_partial(float* p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline void store_half(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline f32x16 round(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline f32x16 pow2(f32x16 n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvttps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
inline f32x16 select(int first, int last, f32x16 a, f32x16 b) {
  const __mmask16 inside = static_cast<__mmask16>(((1u << last) - 1) & ~((1u << first) - 1));
  return {_mm512_mask_blend_ps(inside, b.v, a.v)};
}
inline f32x16 swap_pairs(f32x16 a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
inline float sum(f32x16 a) {
  const __m256 upper = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper);
  return sum_of(eight);
}
inline float max_lane(f32x16 a) {
  const __m256 upper = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), upper);
  return max_of(eight);
}
inline void store_i8(int8_t* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
// The largest magnitude of both, infinite where a lane is NaN or infinite: as integers, magnitudes have the
// order of the numbers, and NaN lies above all.
inline float largest_magnitude(f32x16 a, f32x16 b) {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  const __m512i x = _mm512_and_si512(_mm512_castps_si512(a.v), mask);
  const __m512i y = _mm512_and_si512(_mm512_castps_si512(b.v), mask);
  const __m512i both = _mm512_max_epi32(x, y);
  const __m256i eight = _mm256_max_epi32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64(both, 1));
  return largest_of(eight);
}
inline f32x16 to_float(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

inline u8x64 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(uint8_t* p, u8x64 a) { _mm512_storeu_si512(p, a.v); }
template <int kShift, int kMask, int kUp = 0>
inline u8x64 bits(u8x64 a) {
  // One shift of 16-bit words serves: the mask removes what crossed from the neighbour byte.
  constexpr int shift = kShift - kUp;
  if constexpr (shift > 0) a.v = _mm512_srli_epi16(a.v, shift);
  if constexpr (shift < 0) a.v = _mm512_slli_epi16(a.v, -shift);
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(static_cast<char>(kMask << kUp)))};
}
inline u8x64 either(u8x64 a, u8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline u8x64 lookup(u8x64 index, const uint8_t* table) {
  const __m128i once = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(once), index.v)};
}

inline i32x16 set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline i32x16 load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_int(int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a.v); }

// Two panels share each broadcast: loads would bound one.
inline constexpr int kTilePanels = 2;
constexpr int code_quads(int columns) { return columns > 2 ? 4 : 8; }
inline constexpr int kFloatColumns = 8;
inline constexpr int kSumsInFlight = 12;

template <int kBits, int kZero>
inline i32x16 dot_start(const int32_t* init) {
  return {kZero == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(*init)};
}

template <int kBits, int kZero>
inline i32x16 dot_end(i32x16 sum, const int32_t*) {
  return sum;
}
template <int kQuads, int kBits, int kZero, int kPanels>
inline void dot(i32x16 (&r)[kPanels], const u8x64 (&codes)[kPanels][8], const int8_t* a) {
  for (int q = 0; q < kQuads; ++q) {
    int32_t quad;
    __builtin_memcpy(&quad, a + 4 * q, 4);
    __m512i x = _mm512_set1_epi32(quad);
    if constexpr (kPanels > 1) asm("" : "+v"(x));  // one broadcast, not an embedded one in every product
    for (int p = 0; p < kPanels; ++p) r[p].v = _mm512_dpbusd_epi32(r[p].v, codes[p][q].v, x);
  }
}

}  // namespace pyllm::cpu::PYLLM_ISA
