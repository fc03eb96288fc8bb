// 256 weights in 16 groups of 16: w = d * (0.5 + scale[g]) / 4 * (q - 64), q from a grid of 1024 eights.
// Source: the GGUF format's IQ2_S.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ2_S {
  half d;
  uint8_t ql[32];     // per 8 weights: low 8 bits of the grid index
  uint8_t signs[32];  // per 8 weights: bit i for weight i
  uint8_t qh[8];      // per 8 weights: top 2 bits of the grid index
  uint8_t scale[8];   // low nibble group 2i, high nibble group 2i + 1
};
static_assert(sizeof(BlockIQ2_S) == 82);

struct IQ2_S {
  using Block = BlockIQ2_S;
  static constexpr Type type = Type::IQ2_S;
  static constexpr int block = 256, group = 16, code_bits = 8, zero = 64;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const int scale = b.scale[g / 2] >> g % 2 * 4 & 15;
    return {to_float(b.d) * (0.5f + static_cast<float>(scale)) * 0.25f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    for (int j = 0; j < 2; ++j) {
      const int n = 2 * g + j;
      const int index = b.ql[n] | (b.qh[n / 4] >> n % 4 * 2 & 3) << 8;
      iq2_codes(iq2_s_grid(index), b.signs[n], out + 8 * j);
    }
  }
};

}  // namespace pyllm::quant
