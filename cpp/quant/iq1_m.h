// 256 weights in 16 groups of 16: w = d * (2 * scale[g] + 1) * (t + delta), delta = 1/8 or -1/8 per 8 weights
// and t from IQ1_S's grid. Kept as scale / 8 and q = 16 + 8 t + 8 delta. Source: the GGUF format's IQ1_M.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ1_M {
  uint8_t ql[32];     // per 8 weights: low 8 bits of the grid index
  uint8_t qh[16];     // per 8 weights a nibble: 3 top bits of the grid index, the sign of delta
  uint16_t scale[4];  // 4 times 3 bits of scale; the top nibbles together are d
};
static_assert(sizeof(BlockIQ1_M) == 56);

struct IQ1_M {
  using Block = BlockIQ1_M;
  static constexpr Type type = Type::IQ1_M;
  static constexpr int block = 256, group = 16, code_bits = 8, zero = 16;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    uint32_t d = 0;
    for (int i = 0; i < 4; ++i) d |= static_cast<uint32_t>(b.scale[i] >> 12) << 4 * i;
    const int scale = b.scale[g / 4] >> g % 4 * 3 & 7;
    return {to_float(half{static_cast<uint16_t>(d)}) * static_cast<float>(2 * scale + 1) * 0.125f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    for (int j = 0; j < 2; ++j) {
      const int high = b.qh[g] >> 4 * j;
      iq1_codes(iq1_grid(b.ql[2 * g + j] | (high & 7) << 8), high >> 3 & 1, out + 8 * j);
    }
  }
};

}  // namespace pyllm::quant
