// 256 weights in 8 groups of 32: w = d * scale[g] * q - dmin * min[g], q in 0..31.
// Source: the GGUF format's Q5_K.
#pragma once

#include "quant/q4_k.h"

namespace pyllm::quant {

struct BlockQ5_K {
  half d, dmin;
  uint8_t scale_min[12];  // as in Q4_K
  uint8_t qh[32];         // fifth bits: bit g of byte i for weight i of group g
  uint8_t ql[128];        // per 32 bytes: low nibbles group 2i, high nibbles group 2i + 1
};
static_assert(sizeof(BlockQ5_K) == 176);

struct Q5_K {
  using Block = BlockQ5_K;
  static constexpr Type type = Type::Q5_K;
  static constexpr int block = 256, group = 32, code_bits = 5, zero = 0;
  static constexpr bool has_min = true;
  static constexpr Scales scales = Scales::Super;

  PYLLM_HD static SuperScales super(const Block& b) { return unpack_6bit_scales(b.d, b.dmin, b.scale_min); }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int shift = g % 2 * 4;
    const uint8_t* ql = b.ql + g / 2 * 32;
    for (int i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>((ql[i] >> shift & 15) | (b.qh[i] >> g & 1) << 4);
  }
};

}  // namespace pyllm::quant
