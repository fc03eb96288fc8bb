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
// Asks to keep x in a register, where a compiler would load it anew for every use.
inline void in_register(f32x16&) {}
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
template <int kShift, int kMask>
inline f32x16 load_bits(const uint8_t* p) {  // (byte >> kShift) & kMask of 16 bytes
  f32x16 r;
  PYLLM_LANES r.lane[i] = static_cast<float>(p[i] >> kShift & kMask);
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
inline f32x16 swap_pairs(f32x16 a) {  // lane i takes lane i ^ 1
  f32x16 r;
  PYLLM_LANES r.lane[i] = a.lane[i ^ 1];
  return r;
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
// The largest magnitude of both, infinite where a lane is NaN or infinite.
inline float largest_magnitude(f32x16 a, f32x16 b) {
  float r = 0.0f;
  const f32x16 both[2] = {a, b};
  for (const f32x16& v : both) PYLLM_LANES {
      const float x = __builtin_fabsf(v.lane[i]);
      r = !(x < __builtin_inff()) ? __builtin_inff() : x > r ? x : r;
    }
  return r;
}
// The sum of 16 bytes.
inline int32_t sum_i8(const int8_t* p) {
  int32_t r = 0;
  for (int i = 0; i < 16; ++i) r += p[i];
  return r;
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
inline void store_bytes(uint8_t* p, u8x64 a) {
  for (int i = 0; i < 64; ++i) p[i] = a.lane[i];
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

inline i32x16 set_int(int32_t x) {
  i32x16 r;
  PYLLM_LANES r.lane[i] = x;
  return r;
}
inline i32x16 load_int(const int32_t* p) {
  i32x16 r;
  PYLLM_LANES r.lane[i] = p[i];
  return r;
}
inline void store_int(int32_t* p, i32x16 a) { PYLLM_LANES p[i] = a.lane[i]; }

// How a tile is laid over the registers: panels that it covers at once, and quads of codes of each panel that
// are unpacked at a time (4, or all 8 of a step) for so many columns.
inline constexpr int kTilePanels = 1;
constexpr int code_quads(int) { return 8; }
// Columns of a float tile whose sums fit the registers.
inline constexpr int kFloatColumns = 8;
// Sums that the ceiling's probe keeps at once, a divisor of 12: enough to hide the latency of the products.
inline constexpr int kSumsInFlight = 12;

// Exact dot products of kQuads x 4 codes with as many activations, per panel and row (lane):
// r[panel][row] += sum over q, j of codes[panel][q][4 row + j] * a[4 q + j].
// A sum starts from -kZero times the sum of its activations, which takes the codes' zero off; where an
// instruction set takes signed codes it starts from 0 and takes the zero off each code.
template <int kBits, int kZero>
inline i32x16 dot_start(const int32_t* init) {
  return set_int(kZero == 0 ? 0 : *init);
}
template <int kBits, int kZero>
inline i32x16 dot_end(i32x16 sum, const int32_t*) {
  return sum;
}
template <int kQuads, int kBits, int kZero, int kPanels>
inline void dot(i32x16 (&r)[kPanels], const u8x64 (&codes)[kPanels][8], const int8_t* a) {
  for (int p = 0; p < kPanels; ++p)
    for (int q = 0; q < kQuads; ++q)
      PYLLM_LANES for (int j = 0; j < 4; ++j) r[p].lane[i] += codes[p][q].lane[4 * i + j] * a[4 * q + j];
}

#undef PYLLM_LANES

}  // namespace pyllm::cpu::PYLLM_ISA
