// 256 weights in 8 groups of 32: w = d * scale[g] * q - dmin * min[g], q in 0..15.
// Source: the GGUF format's Q4_K.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

// Eight 6-bit scales and mins in 12 bytes. Groups 0..3: low 6 bits of bytes g and g + 4; groups 4..7: low 4
// bits are a nibble each of byte g + 4, and the top 2 those left over in bytes g - 4 and g.
PYLLM_HD inline SuperScales unpack_6bit_scales(half d, half dmin, const uint8_t* packed) {
  SuperScales s{d, dmin, {}, {}};
  for (int g = 0; g < 4; ++g) {
    s.scale[g] = static_cast<int8_t>(packed[g] & 63);
    s.min[g] = packed[g + 4] & 63;
    s.scale[g + 4] = static_cast<int8_t>((packed[g + 8] & 15) | packed[g] >> 6 << 4);
    s.min[g + 4] = static_cast<uint8_t>(packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4);
  }
  return s;
}

struct BlockQ4_K {
  half d, dmin;
  uint8_t scale_min[12];
  uint8_t q[128];  // per 32 bytes: low nibbles group 2i, high nibbles group 2i + 1
};
static_assert(sizeof(BlockQ4_K) == 144);

struct Q4_K {
  using Block = BlockQ4_K;
  static constexpr Type type = Type::Q4_K;
  static constexpr int block = 256, group = 32, code_bits = 4, zero = 0;
  static constexpr bool has_min = true;
  static constexpr Scales scales = Scales::Super;

  PYLLM_HD static SuperScales super(const Block& b) { return unpack_6bit_scales(b.d, b.dmin, b.scale_min); }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int shift = g % 2 * 4;
    const uint8_t* q = b.q + g / 2 * 32;
    for (int i = 0; i < 32; ++i) out[i] = q[i] >> shift & 15;
  }
};

}  // namespace pyllm::quant
