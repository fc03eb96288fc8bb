// 256 weights in 8 groups of 32: w = d * (scale[g] - 32) * level[q], IQ4_NL's levels.
// Source: the GGUF format's IQ4_XS.
#pragma once

#include "quant/iq4_nl.h"

namespace pyllm::quant {

struct BlockIQ4_XS {
  half d;
  uint16_t scale_high;   // top 2 bits of each scale: bits 2g and 2g + 1
  uint8_t scale_low[4];  // low 4 bits: low nibble group 2i, high nibble group 2i + 1
  uint8_t q[128];        // per group 16 bytes: low nibbles weights 0..15, high nibbles 16..31
};
static_assert(sizeof(BlockIQ4_XS) == 136);

struct IQ4_XS : LevelsIQ4 {
  using Block = BlockIQ4_XS;
  static constexpr Type type = Type::IQ4_XS;
  static constexpr int block = 256, group = 32, code_bits = 4, zero = 128;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Super;

  PYLLM_HD static SuperScales super(const Block& b) {
    SuperScales s{b.d, {0}, {}, {}};
    for (int g = 0; g < 8; ++g) {
      const int low = b.scale_low[g / 2] >> g % 2 * 4 & 15;
      const int high = b.scale_high >> 2 * g & 3;
      s.scale[g] = static_cast<int8_t>((low | high << 4) - 32);
    }
    return s;
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) { nibbles(b.q + g * 16, out); }
};

}  // namespace pyllm::quant
