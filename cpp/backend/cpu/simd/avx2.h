// Sixteen lanes in two AVX2 registers; integer dot products by vpdpbusd where the core has it (AVX-VNNI), else
// by vpmaddubsw with care for saturation.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "backend/cpu/simd/x86.h"

namespace pyllm::cpu::PYLLM_ISA {

struct f32x16 {
  __m256 lo, hi;
};
struct i32x16 {
  __m256i lo, hi;
};
struct u8x64 {
  __m256i lo, hi;
};

inline f32x16 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline void in_register(f32x16&) {}
inline f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline f32x16 load_partial(const float* p, int n) {
  alignas(32) float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline f32x16 load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline __m256 widen_bfloat16(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline f32x16 load_bfloat16(const uint16_t* p) { return {widen_bfloat16(p), widen_bfloat16(p + 8)}; }
inline f32x16 load_i8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline f32x16 load_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
template <int kShift, int kMask>
inline f32x16 load_bits(const uint8_t* p) {
  const __m128i words = _mm_srli_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), kShift);
  const __m128i bytes = _mm_and_si128(words, _mm_set1_epi8(kMask));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void store(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store_partial(float* p, f32x16 a, int n) {
  alignas(32) float lanes[16];
  store(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
inline void store_half(uint16_t* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline f32x16 add(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline f32x16 div(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline f32x16 abs(f32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline f32x16 round(f32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
inline __m256 pow2_half(__m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline f32x16 pow2(f32x16 n) { return {pow2_half(n.lo), pow2_half(n.hi)}; }
inline __m256 lanes_inside(int first, int last, int offset) {
  const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
  const __m256i from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1));
  return _mm256_castsi256_ps(_mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane)));
}
inline f32x16 select(int first, int last, f32x16 a, f32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, lanes_inside(first, last, 0)),
          _mm256_blendv_ps(b.hi, a.hi, lanes_inside(first, last, 8))};
}
inline f32x16 swap_pairs(f32x16 a) { return {_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)}; }
inline float sum(f32x16 a) { return sum_of(_mm256_add_ps(a.lo, a.hi)); }
inline float max_lane(f32x16 a) { return max_of(_mm256_max_ps(a.lo, a.hi)); }
inline void store_i8(int8_t* p, f32x16 a) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  const __m128i low = _mm256_castsi256_si128(ordered), high = _mm256_extracti128_si256(ordered, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
}
inline float largest_magnitude(f32x16 a, f32x16 b) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const auto magnitude = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), mask); };
  const __m256i eight = _mm256_max_epi32(_mm256_max_epi32(magnitude(a.lo), magnitude(a.hi)),
                                         _mm256_max_epi32(magnitude(b.lo), magnitude(b.hi)));
  return largest_of(eight);
}
inline f32x16 to_float(i32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

inline u8x64 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline void store_bytes(uint8_t* p, u8x64 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), a.hi);
}
template <int kShift, int kMask, int kUp = 0>
inline u8x64 bits(u8x64 a) {
  // One shift of 16-bit words serves: the mask removes what crossed from the neighbour byte.
  constexpr int shift = kShift - kUp;
  if constexpr (shift > 0) a = {_mm256_srli_epi16(a.lo, shift), _mm256_srli_epi16(a.hi, shift)};
  if constexpr (shift < 0) a = {_mm256_slli_epi16(a.lo, -shift), _mm256_slli_epi16(a.hi, -shift)};
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(kMask << kUp));
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline u8x64 either(u8x64 a, u8x64 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline u8x64 lookup(u8x64 index, const uint8_t* table) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(twice, index.lo), _mm256_shuffle_epi8(twice, index.hi)};
}

inline __m256i quad(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}

inline i32x16 set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline i32x16 load_int(const int32_t* p) {
  const auto* v = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
inline void store_int(int32_t* p, i32x16 a) {
  auto* v = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(v, a.lo);
  _mm256_storeu_si256(v + 1, a.hi);
}

inline constexpr int kTilePanels = 1;
constexpr int code_quads(int columns) { return columns > 1 ? 4 : 8; }
inline constexpr int kFloatColumns = 4;

#if defined(PYLLM_ISA_AVXVNNI)
inline constexpr int kSumsInFlight = 6;

template <int kBits, int kZero>
inline i32x16 dot_start(const int32_t* init) {
  return set_int(kZero == 0 ? 0 : *init);
}

template <int kBits, int kZero>
inline i32x16 dot_end(i32x16 sum, const int32_t*) {
  return sum;
}

template <int kQuads, int kBits, int kZero>
inline void dot_panel(i32x16& r, const u8x64* codes, const int8_t* a) {
  for (int q = 0; q < kQuads; ++q) {
    const __m256i x = quad(a + 4 * q);
    r.lo = _mm256_dpbusd_avx_epi32(r.lo, codes[q].lo, x);
    r.hi = _mm256_dpbusd_avx_epi32(r.hi, codes[q].hi, x);
  }
}
#else
inline constexpr int kSumsInFlight = 4;

template <int kBits, int kZero>
inline constexpr bool signed_codes = kBits == 8 && kZero == 128;

// vpmaddubsw adds two products in 16 bits. Codes of up to 4 bits stay in them for a whole step (16 x 15 x 127)
// and are widened once; longer ones after so many quads. Signed bytes (8 bits, zero 128) go in as magnitudes,
// their sign moved to the activation.
struct i16x32 {
  __m256i lo, hi;
};
inline i32x16 widen(i16x32 a) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(a.lo, ones), _mm256_madd_epi16(a.hi, ones)};
}
inline i32x16 add(i32x16 a, i32x16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }

template <int kBits, int kZero>
inline auto dot_start(const int32_t* init) {
  if constexpr (kBits <= 4)
    return i16x32{_mm256_setzero_si256(), _mm256_setzero_si256()};
  else
    return set_int(kZero == 0 || signed_codes<kBits, kZero> ? 0 : *init);
}
template <int kBits, int kZero>
inline i32x16 dot_end(i16x32 sum, const int32_t* init) {
  return kZero == 0 ? widen(sum) : add(widen(sum), set_int(*init));
}
template <int kBits, int kZero>
inline i32x16 dot_end(i32x16 sum, const int32_t*) {
  return sum;
}

// Adds here and now: left to itself the compiler keeps the products of all columns and adds in the end.
inline __m256i add_now(__m256i a, __m256i b) {
  __m256i sum = _mm256_add_epi16(a, b);
  asm volatile("" : "+x"(sum));
  return sum;
}

template <bool kSigned>
inline void add_products(i16x32& r, u8x64 codes, const int8_t* a) {
  const __m256i x = quad(a);
  if constexpr (kSigned) {
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i lo = _mm256_xor_si256(codes.lo, flip), hi = _mm256_xor_si256(codes.hi, flip);
    r.lo = add_now(r.lo, _mm256_maddubs_epi16(_mm256_abs_epi8(lo), _mm256_sign_epi8(x, lo)));
    r.hi = add_now(r.hi, _mm256_maddubs_epi16(_mm256_abs_epi8(hi), _mm256_sign_epi8(x, hi)));
  } else {
    r.lo = add_now(r.lo, _mm256_maddubs_epi16(codes.lo, x));
    r.hi = add_now(r.hi, _mm256_maddubs_epi16(codes.hi, x));
  }
}

template <int kQuads, int kBits, int kZero>
inline void dot_panel(i16x32& r, const u8x64* codes, const int8_t* a) {
  for (int q = 0; q < kQuads; ++q) add_products<false>(r, codes[q], a + 4 * q);
}
template <int kQuads, int kBits, int kZero>
inline void dot_panel(i32x16& r, const u8x64* codes, const int8_t* a) {
  constexpr int fit = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  for (int first = 0; first < kQuads; first += fit) {
    i16x32 sum = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int q = first; q < first + fit; ++q)
      add_products<signed_codes<kBits, kZero> >(sum, codes[q], a + 4 * q);
    r = add(r, widen(sum));
    asm volatile("" : "+x"(r.lo), "+x"(r.hi));
  }
}
#endif

template <int kQuads, int kBits, int kZero, int kPanels, typename Sum>
inline void dot(Sum (&r)[kPanels], const u8x64 (&codes)[kPanels][8], const int8_t* a) {
  for (int p = 0; p < kPanels; ++p) dot_panel<kQuads, kBits, kZero>(r[p], codes[p], a);
}

}  // namespace pyllm::cpu::PYLLM_ISA
