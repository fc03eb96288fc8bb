// Writing codes: for each type the inverse of its codes(), for all weights of a block at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/types.h"

namespace pyllm::quantize::PYLLM_ISA {

// 32 codes of 4 bits: low nibbles the first sixteen, high nibbles the others.
inline void put_nibbles(const uint8_t* code, uint8_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>((code[i] & 15) | (code[i + 16] & 15) << 4);
}
// Fifth bits of 32 codes: bit i for weight i.
inline void put_fifth_bits(const uint8_t* code, uint8_t* out) {
  uint32_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(code[i] >> 4 & 1) << i;
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint8_t>(bits >> 8 * i);
}
// 64 codes of 4 bits in 32 bytes: low nibbles the first 32, high nibbles the others.
inline void put_wide_nibbles(const uint8_t* code, uint8_t* out) {
  for (int i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>((code[i] & 15) | (code[i + 32] & 15) << 4);
}
// 128 codes of 2 bits in 32 bytes: weights 32 r + i at bits 2 r and 2 r + 1 of byte i.
inline void put_pairs(const uint8_t* code, uint8_t* out) {
  for (int i = 0; i < 32; ++i)
    out[i] = static_cast<uint8_t>((code[i] & 3) | (code[i + 32] & 3) << 2 | (code[i + 64] & 3) << 4 |
                                  (code[i + 96] & 3) << 6);
}

inline void put_codes(const uint8_t* code, quant::BlockQ4_0& b) { put_nibbles(code, b.q); }
inline void put_codes(const uint8_t* code, quant::BlockQ4_1& b) { put_nibbles(code, b.q); }
inline void put_codes(const uint8_t* code, quant::BlockIQ4_NL& b) { put_nibbles(code, b.q); }
inline void put_codes(const uint8_t* code, quant::BlockMXFP4& b) { put_nibbles(code, b.q); }
inline void put_codes(const uint8_t* code, quant::BlockQ5_0& b) {
  put_nibbles(code, b.ql);
  put_fifth_bits(code, b.qh);
}
inline void put_codes(const uint8_t* code, quant::BlockQ5_1& b) {
  put_nibbles(code, b.ql);
  put_fifth_bits(code, b.qh);
}
inline void put_codes(const uint8_t* code, quant::BlockQ8_0& b) {
  for (int i = 0; i < 32; ++i) b.q[i] = static_cast<int8_t>(code[i] - 128);
}
inline void put_codes(const uint8_t* code, quant::BlockTQ2_0& b) {
  put_pairs(code, b.q);
  put_pairs(code + 128, b.q + 32);
}
// Five digits of base 3 are a fraction of 256, rounded up so that cutting it gives them back.
inline void put_codes(const uint8_t* code, quant::BlockTQ1_0& b) {
  const auto fraction = [](int number) { return static_cast<uint8_t>((number * 256 + 242) / 243); };
  const auto digits = [&](const uint8_t* first, int apart, int count) {
    int number = 0;
    for (int n = 0; n < 5; ++n) number = number * 3 + (n < count ? first[n * apart] : 0);
    return fraction(number);
  };
  for (int i = 0; i < 32; ++i) b.q[i] = digits(code + i, 32, 5);
  for (int i = 0; i < 16; ++i) b.q[32 + i] = digits(code + 160 + i, 16, 5);
  for (int i = 0; i < 4; ++i) b.qh[i] = digits(code + 240 + i, 4, 4);
}
inline void put_codes(const uint8_t* code, quant::BlockQ2_K& b) {
  put_pairs(code, b.q);
  put_pairs(code + 128, b.q + 32);
}
inline void put_codes(const uint8_t* code, quant::BlockQ3_K& b) {
  put_pairs(code, b.ql);
  put_pairs(code + 128, b.ql + 32);
  for (int i = 0; i < 32; ++i) {
    int bits = 0;
    for (int run = 0; run < 8; ++run) bits |= (code[32 * run + i] >> 2 & 1) << run;
    b.qh[i] = static_cast<uint8_t>(bits);
  }
}
inline void put_codes(const uint8_t* code, quant::BlockQ4_K& b) {
  for (int k = 0; k < 4; ++k) put_wide_nibbles(code + 64 * k, b.q + 32 * k);
}
inline void put_codes(const uint8_t* code, quant::BlockQ5_K& b) {
  for (int k = 0; k < 4; ++k) put_wide_nibbles(code + 64 * k, b.ql + 32 * k);
  for (int i = 0; i < 32; ++i) {
    int bits = 0;
    for (int g = 0; g < 8; ++g) bits |= (code[32 * g + i] >> 4 & 1) << g;
    b.qh[i] = static_cast<uint8_t>(bits);
  }
}
inline void put_codes(const uint8_t* code, quant::BlockQ6_K& b) {
  for (int h = 0; h < 2; ++h) {
    const uint8_t* c = code + 128 * h;
    for (int i = 0; i < 64; ++i) b.ql[64 * h + i] = static_cast<uint8_t>((c[i] & 15) | (c[i + 64] & 15) << 4);
    for (int i = 0; i < 32; ++i)
      b.qh[32 * h + i] = static_cast<uint8_t>(c[i] >> 4 | (c[i + 32] >> 4) << 2 | (c[i + 64] >> 4) << 4 |
                                              (c[i + 96] >> 4) << 6);
  }
}
inline void put_codes(const uint8_t* code, quant::BlockIQ4_XS& b) {
  for (int g = 0; g < 8; ++g) put_nibbles(code + 32 * g, b.q + 16 * g);
}

// Scales and mins of a super-block: the inverses of super().
inline void put_6bit_scales(const quant::SuperScales& s, uint8_t* out) {
  for (int g = 0; g < 4; ++g) {
    const int scale = s.scale[g + 4], min = s.min[g + 4];
    out[g] = static_cast<uint8_t>(s.scale[g] | (scale >> 4) << 6);
    out[g + 4] = static_cast<uint8_t>(s.min[g] | (min >> 4) << 6);
    out[g + 8] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
  }
}
inline void put_scales(const quant::SuperScales& s, quant::BlockQ2_K& b) {
  b.d = s.d;
  b.dmin = s.dmin;
  for (int g = 0; g < 16; ++g) b.scale_min[g] = static_cast<uint8_t>(s.scale[g] | s.min[g] << 4);
}
inline void put_scales(const quant::SuperScales& s, quant::BlockQ3_K& b) {
  b.d = s.d;
  memset(b.scale, 0, sizeof(b.scale));
  for (int g = 0; g < 16; ++g) {
    const int stored = s.scale[g] + 32;
    b.scale[g % 8] |= static_cast<uint8_t>((stored & 15) << g / 8 * 4);
    b.scale[8 + g % 4] |= static_cast<uint8_t>((stored >> 4) << g / 4 * 2);
  }
}
inline void put_scales(const quant::SuperScales& s, quant::BlockQ4_K& b) {
  b.d = s.d;
  b.dmin = s.dmin;
  put_6bit_scales(s, b.scale_min);
}
inline void put_scales(const quant::SuperScales& s, quant::BlockQ5_K& b) {
  b.d = s.d;
  b.dmin = s.dmin;
  put_6bit_scales(s, b.scale_min);
}
inline void put_scales(const quant::SuperScales& s, quant::BlockQ6_K& b) {
  b.d = s.d;
  for (int g = 0; g < 16; ++g) b.scale[g] = s.scale[g];
}
inline void put_scales(const quant::SuperScales& s, quant::BlockIQ4_XS& b) {
  b.d = s.d;
  b.scale_high = 0;
  memset(b.scale_low, 0, sizeof(b.scale_low));
  for (int g = 0; g < 8; ++g) {
    const int stored = s.scale[g] + 32;
    b.scale_low[g / 2] |= static_cast<uint8_t>((stored & 15) << g % 2 * 4);
    b.scale_high = static_cast<uint16_t>(b.scale_high | (stored >> 4) << 2 * g);
  }
}

}  // namespace pyllm::quantize::PYLLM_ISA
