// Sixteen lanes in four NEON registers; integer dot products by sdot (ARMv8.2 dotprod).
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace pyllm::cpu::PYLLM_ISA {

struct f32x16 {
  float32x4_t v0, v1, v2, v3;
};
struct i32x16 {
  int32x4_t v0, v1, v2, v3;
};
struct u8x64 {
  uint8x16_t v0, v1, v2, v3;
};

inline f32x16 set(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline f32x16 zero() { return set(0.0f); }
inline void in_register(f32x16&) {}
inline f32x16 load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
inline f32x16 load_partial(const float* p, int n) {
  float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline f32x16 load_half(const uint16_t* p) {
  const float16x8_t lo = vreinterpretq_f16_u16(vld1q_u16(p)), hi = vreinterpretq_f16_u16(vld1q_u16(p + 8));
  return {vcvt_f32_f16(vget_low_f16(lo)), vcvt_high_f32_f16(lo), vcvt_f32_f16(vget_low_f16(hi)),
          vcvt_high_f32_f16(hi)};
}
inline float32x4_t widen_bfloat16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline f32x16 load_bfloat16(const uint16_t* p) {
  return {widen_bfloat16(p), widen_bfloat16(p + 4), widen_bfloat16(p + 8), widen_bfloat16(p + 12)};
}
inline f32x16 load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_high_s8(bytes);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))};
}
inline f32x16 load_u8(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t lo = vmovl_u8(vget_low_u8(bytes)), hi = vmovl_high_u8(bytes);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_high_u16(lo)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_high_u16(hi))};
}
inline f32x16 widen_u8(uint8x16_t bytes) {
  const uint16x8_t lo = vmovl_u8(vget_low_u8(bytes)), hi = vmovl_high_u8(bytes);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_high_u16(lo)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_high_u16(hi))};
}
template <int kShift, int kMask>
inline f32x16 load_bits(const uint8_t* p) {
  uint8x16_t bytes = vld1q_u8(p);
  if constexpr (kShift > 0) bytes = vshrq_n_u8(bytes, kShift);
  return widen_u8(vandq_u8(bytes, vdupq_n_u8(kMask)));
}
inline void store(float* p, f32x16 a) {
  vst1q_f32(p, a.v0);
  vst1q_f32(p + 4, a.v1);
  vst1q_f32(p + 8, a.v2);
  vst1q_f32(p + 12, a.v3);
}
inline void store_partial(float* p, f32x16 a, int n) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
inline void store_half(uint16_t* p, f32x16 a) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.v0), a.v1)));
  vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.v2), a.v3)));
}
inline f32x16 add(f32x16 a, f32x16 b) {
  return {vaddq_f32(a.v0, b.v0), vaddq_f32(a.v1, b.v1), vaddq_f32(a.v2, b.v2), vaddq_f32(a.v3, b.v3)};
}
inline f32x16 sub(f32x16 a, f32x16 b) {
  return {vsubq_f32(a.v0, b.v0), vsubq_f32(a.v1, b.v1), vsubq_f32(a.v2, b.v2), vsubq_f32(a.v3, b.v3)};
}
inline f32x16 mul(f32x16 a, f32x16 b) {
  return {vmulq_f32(a.v0, b.v0), vmulq_f32(a.v1, b.v1), vmulq_f32(a.v2, b.v2), vmulq_f32(a.v3, b.v3)};
}
inline f32x16 div(f32x16 a, f32x16 b) {
  return {vdivq_f32(a.v0, b.v0), vdivq_f32(a.v1, b.v1), vdivq_f32(a.v2, b.v2), vdivq_f32(a.v3, b.v3)};
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {vfmaq_f32(c.v0, a.v0, b.v0), vfmaq_f32(c.v1, a.v1, b.v1), vfmaq_f32(c.v2, a.v2, b.v2),
          vfmaq_f32(c.v3, a.v3, b.v3)};
}
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) {
  return {vfmsq_f32(c.v0, a.v0, b.v0), vfmsq_f32(c.v1, a.v1, b.v1), vfmsq_f32(c.v2, a.v2, b.v2),
          vfmsq_f32(c.v3, a.v3, b.v3)};
}
// Not vmaxq and vminq: where a comparison is not true (NaN), b.
inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline f32x16 max(f32x16 a, f32x16 b) {
  return {larger(a.v0, b.v0), larger(a.v1, b.v1), larger(a.v2, b.v2), larger(a.v3, b.v3)};
}
inline f32x16 min(f32x16 a, f32x16 b) {
  return {smaller(a.v0, b.v0), smaller(a.v1, b.v1), smaller(a.v2, b.v2), smaller(a.v3, b.v3)};
}
inline f32x16 abs(f32x16 a) { return {vabsq_f32(a.v0), vabsq_f32(a.v1), vabsq_f32(a.v2), vabsq_f32(a.v3)}; }
inline f32x16 round(f32x16 a) {
  return {vrndnq_f32(a.v0), vrndnq_f32(a.v1), vrndnq_f32(a.v2), vrndnq_f32(a.v3)};
}
inline float32x4_t pow2_quarter(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline f32x16 pow2(f32x16 n) {
  return {pow2_quarter(n.v0), pow2_quarter(n.v1), pow2_quarter(n.v2), pow2_quarter(n.v3)};
}
inline uint32x4_t lanes_inside(int first, int last, int offset) {
  const int32x4_t lane =
      vaddq_s32(vcombine_s32(vcreate_s32(0x100000000), vcreate_s32(0x300000002)), vdupq_n_s32(offset));
  return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(first)), vcltq_s32(lane, vdupq_n_s32(last)));
}
inline f32x16 select(int first, int last, f32x16 a, f32x16 b) {
  return {vbslq_f32(lanes_inside(first, last, 0), a.v0, b.v0),
          vbslq_f32(lanes_inside(first, last, 4), a.v1, b.v1),
          vbslq_f32(lanes_inside(first, last, 8), a.v2, b.v2),
          vbslq_f32(lanes_inside(first, last, 12), a.v3, b.v3)};
}
inline f32x16 swap_pairs(f32x16 a) {
  return {vrev64q_f32(a.v0), vrev64q_f32(a.v1), vrev64q_f32(a.v2), vrev64q_f32(a.v3)};
}
inline float sum(f32x16 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v0, a.v2), vaddq_f32(a.v1, a.v3));
  return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
inline float max_lane(f32x16 a) {
  const float32x4_t four = larger(larger(a.v0, a.v2), larger(a.v1, a.v3));
  const float32x2_t lo = vget_low_f32(four), hi = vget_high_f32(four);
  const float32x2_t two = vbsl_f32(vcgt_f32(lo, hi), lo, hi);
  const float x = vget_lane_f32(two, 0), y = vget_lane_f32(two, 1);
  return x > y ? x : y;
}
inline int16x8_t narrow(float32x4_t lo, float32x4_t hi) {
  return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(lo)), vcvtnq_s32_f32(hi));
}
inline void store_i8(int8_t* p, f32x16 a) {
  vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(narrow(a.v0, a.v1)), narrow(a.v2, a.v3)));
}
inline float largest_magnitude(f32x16 a, f32x16 b) {
  const auto larger = [](float32x4_t x, float32x4_t y) {
    const uint32x4_t mask = vdupq_n_u32(0x7fffffff);
    return vmaxq_u32(vandq_u32(vreinterpretq_u32_f32(x), mask), vandq_u32(vreinterpretq_u32_f32(y), mask));
  };
  const uint32x4_t four = vmaxq_u32(vmaxq_u32(larger(a.v0, a.v1), larger(a.v2, a.v3)),
                                    vmaxq_u32(larger(b.v0, b.v1), larger(b.v2, b.v3)));
  uint32_t bits = vmaxvq_u32(four);
  if (bits > 0x7f800000) bits = 0x7f800000;
  float r;
  __builtin_memcpy(&r, &bits, 4);
  return r;
}
inline int32_t sum_i8(const int8_t* p) { return vaddlvq_s8(vld1q_s8(p)); }
inline f32x16 to_float(i32x16 a) {
  return {vcvtq_f32_s32(a.v0), vcvtq_f32_s32(a.v1), vcvtq_f32_s32(a.v2), vcvtq_f32_s32(a.v3)};
}

inline u8x64 load_bytes(const uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
template <int kShift, int kMask, int kUp = 0>
inline uint8x16_t bits_quarter(uint8x16_t a) {
  constexpr int shift = kShift - kUp;
  if constexpr (shift > 0) a = vshrq_n_u8(a, shift);
  if constexpr (shift < 0) a = vshlq_n_u8(a, -shift);
  if constexpr (kUp == 0 && 0xff >> kShift == kMask) return a;  // nothing left to remove
  return vandq_u8(a, vdupq_n_u8(kMask << kUp));
}
inline void store_bytes(uint8_t* p, u8x64 a) {
  vst1q_u8(p, a.v0);
  vst1q_u8(p + 16, a.v1);
  vst1q_u8(p + 32, a.v2);
  vst1q_u8(p + 48, a.v3);
}
template <int kShift, int kMask, int kUp = 0>
inline u8x64 bits(u8x64 a) {
  return {bits_quarter<kShift, kMask, kUp>(a.v0), bits_quarter<kShift, kMask, kUp>(a.v1),
          bits_quarter<kShift, kMask, kUp>(a.v2), bits_quarter<kShift, kMask, kUp>(a.v3)};
}
inline u8x64 either(u8x64 a, u8x64 b) {
  return {vorrq_u8(a.v0, b.v0), vorrq_u8(a.v1, b.v1), vorrq_u8(a.v2, b.v2), vorrq_u8(a.v3, b.v3)};
}
inline u8x64 lookup(u8x64 index, const uint8_t* table) {
  const uint8x16_t t = vld1q_u8(table);
  return {vqtbl1q_u8(t, index.v0), vqtbl1q_u8(t, index.v1), vqtbl1q_u8(t, index.v2), vqtbl1q_u8(t, index.v3)};
}

inline i32x16 set_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
inline i32x16 load_int(const int32_t* p) {
  return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
inline void store_int(int32_t* p, i32x16 a) {
  vst1q_s32(p, a.v0);
  vst1q_s32(p + 4, a.v1);
  vst1q_s32(p + 8, a.v2);
  vst1q_s32(p + 12, a.v3);
}

inline constexpr int kTilePanels = 1;
constexpr int code_quads(int) { return 4; }
inline constexpr int kFloatColumns = 4;
inline constexpr int kSumsInFlight = 6;

// r += the products with quad kQuad of the sixteen activations in x.
template <int kQuad, uint8_t kFlip>
inline void add_products(i32x16& r, u8x64 code, int8x16_t x) {
  if constexpr (kFlip != 0) {
    const uint8x16_t flip = vdupq_n_u8(kFlip);
    code = {veorq_u8(code.v0, flip), veorq_u8(code.v1, flip), veorq_u8(code.v2, flip), veorq_u8(code.v3, flip)};
  }
  r.v0 = vdotq_laneq_s32(r.v0, vreinterpretq_s8_u8(code.v0), x, kQuad);
  r.v1 = vdotq_laneq_s32(r.v1, vreinterpretq_s8_u8(code.v1), x, kQuad);
  r.v2 = vdotq_laneq_s32(r.v2, vreinterpretq_s8_u8(code.v2), x, kQuad);
  r.v3 = vdotq_laneq_s32(r.v3, vreinterpretq_s8_u8(code.v3), x, kQuad);
}

// sdot takes signed bytes. Codes of up to 7 bits are that already; those of 8 bits with zero 128 become signed,
// less their zero, by turning their top bit.
template <int kBits, int kZero>
inline constexpr bool signed_codes = kBits == 8 && kZero == 128;

template <int kBits, int kZero>
inline i32x16 dot_start(const int32_t* init) {
  return set_int(kZero == 0 || signed_codes<kBits, kZero> ? 0 : *init);
}

template <int kBits, int kZero>
inline i32x16 dot_end(i32x16 sum, const int32_t*) {
  return sum;
}
template <int kQuads, int kBits, int kZero, int kPanels>
inline void dot(i32x16 (&r)[kPanels], const u8x64 (&codes)[kPanels][8], const int8_t* a) {
  static_assert(kQuads % 4 == 0);
  constexpr uint8_t flip = signed_codes<kBits, kZero> ? 0x80 : 0;
  for (int q = 0; q < kQuads; q += 4) {
    const int8x16_t x = vld1q_s8(a + 4 * q);
    for (int p = 0; p < kPanels; ++p) {
      add_products<0, flip>(r[p], codes[p][q], x);
      add_products<1, flip>(r[p], codes[p][q + 1], x);
      add_products<2, flip>(r[p], codes[p][q + 2], x);
      add_products<3, flip>(r[p], codes[p][q + 3], x);
    }
  }
}

}  // namespace pyllm::cpu::PYLLM_ISA
