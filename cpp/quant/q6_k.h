// 256 weights in 16 groups of 16: w = d * scale[g] * (q - 32), q in 0..63. Source: the GGUF format's Q6_K.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ6_K {
  uint8_t ql[128];  // low 4 bits
  uint8_t qh[64];   // high 2 bits
  int8_t scale[16];
  half d;
};
static_assert(sizeof(BlockQ6_K) == 210);

struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr Type type = Type::Q6_K;
  static constexpr int block = 256, group = 16, code_bits = 6, zero = 32;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Super;

  PYLLM_HD static SuperScales super(const Block& b) {
    SuperScales s{b.d, {0}, {}, {}};
    for (int g = 0; g < 16; ++g) s.scale[g] = b.scale[g];
    return s;
  }
  // A half of 128 weights is four runs of 32: low nibbles of ql[0..31], ql[32..63], then their high nibbles;
  // run r's top bits are bits 2r and 2r + 1 of qh[0..31].
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int half_index = g / 8, run = g % 8 / 2, first = g % 2 * 16;
    const uint8_t* ql = b.ql + half_index * 64 + run % 2 * 32 + first;
    const uint8_t* qh = b.qh + half_index * 32 + first;
    for (int i = 0; i < 16; ++i) {
      const int low = run < 2 ? ql[i] & 15 : ql[i] >> 4;
      out[i] = static_cast<uint8_t>(low | (qh[i] >> 2 * run & 3) << 4);
    }
  }
};

}  // namespace pyllm::quant
