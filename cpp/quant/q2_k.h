// 256 weights in 16 groups of 16: w = d * scale[g] * q - dmin * min[g], q in 0..3.
// Source: the GGUF format's Q2_K.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ2_K {
  uint8_t scale_min[16];  // low nibble: scale, high nibble: min
  uint8_t q[64];
  half d, dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

struct Q2_K {
  using Block = BlockQ2_K;
  static constexpr Type type = Type::Q2_K;
  static constexpr int block = 256, group = 16, code_bits = 2, zero = 0;
  static constexpr bool has_min = true;
  static constexpr Scales scales = Scales::Super;

  PYLLM_HD static SuperScales super(const Block& b) {
    SuperScales s{b.d, b.dmin, {}, {}};
    for (int g = 0; g < 16; ++g) {
      s.scale[g] = static_cast<int8_t>(b.scale_min[g] & 15);
      s.min[g] = b.scale_min[g] >> 4;
    }
    return s;
  }
  // A half of 128 weights is four runs of 32: run r is bits 2r and 2r + 1 of its 32 bytes.
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int shift = g % 8 / 2 * 2;
    const uint8_t* q = b.q + g / 8 * 32 + g % 2 * 16;
    for (int i = 0; i < 16; ++i) out[i] = q[i] >> shift & 3;
  }
};

}  // namespace pyllm::quant
