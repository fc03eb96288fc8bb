// 256 weights in 16 groups of 16: w = d * (0.5 + scale[g]) / 4 * (q - 64), q from a grid of 512 eights.
// Source: the GGUF format's IQ2_XS.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ2_XS {
  half d;
  uint16_t q[32];    // per 8 weights: 9 bits of grid index, 7 bits of signs
  uint8_t scale[8];  // low nibble group 2i, high nibble group 2i + 1
};
static_assert(sizeof(BlockIQ2_XS) == 74);

struct IQ2_XS {
  using Block = BlockIQ2_XS;
  static constexpr Type type = Type::IQ2_XS;
  static constexpr int block = 256, group = 16, code_bits = 8, zero = 64;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const int scale = b.scale[g / 2] >> g % 2 * 4 & 15;
    return {to_float(b.d) * (0.5f + static_cast<float>(scale)) * 0.25f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    for (int j = 0; j < 2; ++j) {
      const int q = b.q[2 * g + j];
      iq2_codes(iq2_xs_grid(q & 511), even_signs(q >> 9), out + 8 * j);
    }
  }
};

}  // namespace pyllm::quant
