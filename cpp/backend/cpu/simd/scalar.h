// The twin that is easy to check: sixteen lanes as an array, one obvious loop per operation.
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/half.h"

namespace pyllm::cpu::PYLLM_ISA {

struct f32x16 {
  float lane[16];
};
struct i32x16 {
  int32_t lane[16];
};
struct u8x64 {
  uint8_t lane[64];
};

#define PYLLM_LANES for (int i = 0; i < 16; ++i)

inline f32x16 set(float x) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = x;
  return r;
}
inline f32x16 zero() { return set(0.0f); }
inline f32x16 load(const float* p) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = p[i];
  return r;
}
inline f32x16 load_partial(const float* p, int n) {  // lanes from n on are zero
  f32x16 r;
  PYLLM_LANES r.lane[i] = i < n ? p[i] : 0.0f;
  return r;
}
inline f32x16 load_half(const uint16_t* p) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = to_float(half{p[i]});
  return r;
}
inline f32x16 load_bfloat16(const uint16_t* p) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = to_float(bfloat16{p[i]});
  return r;
}
inline f32x16 load_i8(const int8_t* p) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = p[i];
  return r;
}
inline f32x16 load_u8(const uint8_t* p) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = p[i];
  return r;
}
inline void store(float* p, f32x16 a) { PYLLM_LANES p[i] = a.lane[i]; }
inline void store_partial(float* p, f32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.lane[i];
}
inline void store_half(uint16_t* p, f32x16 a) { PYLLM_LANES p[i] = to_half(a.lane[i]).bits; }
inline f32x16 add(f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] += b.lane[i];
  return a;
}
inline f32x16 sub(f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] -= b.lane[i];
  return a;
}
inline f32x16 mul(f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] *= b.lane[i];
  return a;
}
inline f32x16 div(f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] /= b.lane[i];
  return a;
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {  // a * b + c, rounded once
  PYLLM_LANES a.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return a;
}
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) {  // c - a * b, rounded once
  PYLLM_LANES a.lane[i] = __builtin_fmaf(-a.lane[i], b.lane[i], c.lane[i]);
  return a;
}
inline f32x16 max(f32x16 a, f32x16 b) {  // b where a comparison is not true (NaN)
  PYLLM_LANES a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
inline f32x16 min(f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
inline f32x16 abs(f32x16 a) {
  PYLLM_LANES a.lane[i] = __builtin_fabsf(a.lane[i]);
  return a;
}
inline f32x16 round(f32x16 a) {  // to nearest, ties to even
  PYLLM_LANES a.lane[i] = nearbyintf(a.lane[i]);
  return a;
}
inline f32x16 pow2(f32x16 n) {  // 2^n for whole n in -126..127
  PYLLM_LANES n.lane[i] = bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(n.lane[i]) + 127) << 23);
  return n;
}
// Lanes first..last-1 of a, the others of b.
inline f32x16 select(int first, int last, f32x16 a, f32x16 b) {
  PYLLM_LANES a.lane[i] = i >= first && i < last ? a.lane[i] : b.lane[i];
  return a;
}
// Sums over lanes always halve the same way: i + (i + 8), then 4, 2, 1.
inline float sum(f32x16 a) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a.lane[i] += a.lane[i + n];
  return a.lane[0];
}
inline float max_lane(f32x16 a) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a.lane[i] = a.lane[i] > a.lane[i + n] ? a.lane[i] : a.lane[i + n];
  return a.lane[0];
}
inline void store_i8(int8_t* p, f32x16 a) {  // whole numbers in -127..127
  PYLLM_LANES p[i] = static_cast<int8_t>(a.lane[i] >= -127.0f && a.lane[i] <= 127.0f ? a.lane[i] : 0.0f);
}
inline f32x16 to_float(i32x16 a) {
  f32x16 r;
  PYLLM_LANES r.lane[i] = static_cast<float>(a.lane[i]);
  return r;
}

inline u8x64 load_bytes(const uint8_t* p) {
  u8x64 r;
  for (int i = 0; i < 64; ++i) r.lane[i] = p[i];
  return r;
}
// (a >> kShift & kMask) << kUp, byte by byte.
template <int kShift, int kMask, int kUp = 0>
inline u8x64 bits(u8x64 a) {
  for (int i = 0; i < 64; ++i) a.lane[i] = static_cast<uint8_t>((a.lane[i] >> kShift & kMask) << kUp);
  return a;
}
inline u8x64 either(u8x64 a, u8x64 b) {
  for (int i = 0; i < 64; ++i) a.lane[i] |= b.lane[i];
  return a;
}
inline u8x64 lookup(u8x64 index, const uint8_t* table) {
  for (int i = 0; i < 64; ++i) index.lane[i] = table[index.lane[i]];
  return index;
}

// r += the products of one quad of codes of up to 7 bits with its four activations.
inline void accumulate(i32x16& r, u8x64 code, const int8_t* a) {
  PYLLM_LANES for (int j = 0; j < 4; ++j) r.lane[i] += code.lane[4 * i + j] * a[j];
}

// Exact dot products of kQuads x 4 codes with as many activations, per row (lane):
// result[row] = sum over q, j of (codes[q][4 row + j] - kZero) * a[4 q + j].
// `init` is -kZero times the sum of the activations, for whoever multiplies the raw codes.
template <int kQuads, int kBits, int kZero>
inline i32x16 dot(const u8x64* codes, const int8_t* a, const int32_t* init) {
  i32x16 r;
  PYLLM_LANES r.lane[i] = *init;
  for (int q = 0; q < kQuads; ++q)
    PYLLM_LANES for (int j = 0; j < 4; ++j) r.lane[i] += codes[q].lane[4 * i + j] * a[4 * q + j];
  return r;
}

#undef PYLLM_LANES

}  // namespace pyllm::cpu::PYLLM_ISA
