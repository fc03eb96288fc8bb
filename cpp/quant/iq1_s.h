// 256 weights in 8 groups of 32: w = d * (2 * scale[g] + 1) * (t + delta[g]), delta = 1/8 or -1/8 and t in
// -1..1 from a grid of 2048 eights. Kept as scale / 8 and q = 16 + 8 t + 8 delta. Source: the GGUF format's
// IQ1_S.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ1_S {
  half d;
  uint8_t ql[32];  // per 8 weights: low 8 bits of the grid index
  uint16_t qh[8];  // per group: 4 times 3 top bits of the grid index, 3 bits of scale, the sign of delta
};
static_assert(sizeof(BlockIQ1_S) == 50);

struct IQ1_S {
  using Block = BlockIQ1_S;
  static constexpr Type type = Type::IQ1_S;
  static constexpr int block = 256, group = 32, code_bits = 8, zero = 16;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const int scale = b.qh[g] >> 12 & 7;
    return {to_float(b.d) * static_cast<float>(2 * scale + 1) * 0.125f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int qh = b.qh[g];
    for (int j = 0; j < 4; ++j)
      iq1_codes(iq1_grid(b.ql[4 * g + j] | (qh >> 3 * j & 7) << 8), qh >> 15, out + 8 * j);
  }
};

}  // namespace pyllm::quant
