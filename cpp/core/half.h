// IEEE half and bfloat16 to float and back, bit-exact and without hardware support.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PYLLM_HD __host__ __device__
#else
#define PYLLM_HD
#endif

namespace pyllm {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

PYLLM_HD inline float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
PYLLM_HD inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// Neither way has branches, so that loops over many are vectorized.
PYLLM_HD inline float to_float(half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7fffu;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN keep their mantissa
  // Exponent bias 15 -> 127 by an exact multiplication, which also makes subnormals right.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);  // * 2^112
  return bits_to_float(sign | special | float_to_bits(scaled));
}

PYLLM_HD inline float to_float(bfloat16 b) { return bits_to_float(static_cast<uint32_t>(b.bits) << 16); }

// Round to nearest, ties to even; overflow to infinity, NaN stays NaN.
PYLLM_HD inline bfloat16 to_bfloat16(float x) {
  const uint32_t bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
PYLLM_HD inline half to_half(float x) {
  const uint32_t bits = float_to_bits(x), magnitude = bits & 0x7fffffffu;
  const uint32_t odd = magnitude >> 13 & 1u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  // A subnormal half: the float adder rounds at 2^-24.
  const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t rounded = magnitude < 0x38800000u ? subnormal : normal;
  rounded = magnitude >= 0x477ff000u ? 0x7c00u : rounded;  // rounds past 65504
  rounded = magnitude > 0x7f800000u ? 0x7e00u : rounded;
  return {static_cast<uint16_t>((bits >> 16 & 0x8000u) | rounded)};
}

}  // namespace pyllm
