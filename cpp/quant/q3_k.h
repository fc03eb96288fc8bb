// 256 weights in 16 groups of 16: w = d * (scale[g] - 32) * (q - 4), q in 0..7.
// Source: the GGUF format's Q3_K.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ3_K {
  uint8_t qh[32];  // third bits: bit r of byte i for weight 32 r + i
  uint8_t ql[64];  // low 2 bits
  uint8_t scale[12];
  half d;
};
static_assert(sizeof(BlockQ3_K) == 110);

struct Q3_K {
  using Block = BlockQ3_K;
  static constexpr Type type = Type::Q3_K;
  static constexpr int block = 256, group = 16, code_bits = 3, zero = 4;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Super;

  // 6 bits a scale: the low 4 are nibbles of bytes 0..7 (low ones for groups 0..7, high ones for 8..15),
  // the top 2 are bits 2 (g / 4) and up of byte 8 + g % 4.
  PYLLM_HD static SuperScales super(const Block& b) {
    SuperScales s{b.d, {0}, {}, {}};
    for (int g = 0; g < 16; ++g) {
      const int low = b.scale[g % 8] >> g / 8 * 4 & 15;
      const int high = b.scale[8 + g % 4] >> g / 4 * 2 & 3;
      s.scale[g] = static_cast<int8_t>((low | high << 4) - 32);
    }
    return s;
  }
  // A half of 128 weights is four runs of 32: run r's low bits are bits 2r and 2r + 1 of its 32 bytes.
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int shift = g % 8 / 2 * 2, first = g % 2 * 16;
    const uint8_t* ql = b.ql + g / 8 * 32 + first;
    const uint8_t* qh = b.qh + first;
    for (int i = 0; i < 16; ++i)
      out[i] = static_cast<uint8_t>((ql[i] >> shift & 3) | (qh[i] >> g / 2 & 1) << 2);
  }
};

}  // namespace pyllm::quant
