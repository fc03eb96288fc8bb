// 256 weights in 8 groups of 32: w = d * (0.5 + scale[g]) / 4 * (q - 64), q from a grid of 256 eights.
// Source: the GGUF format's IQ2_XXS.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ2_XXS {
  half d;
  uint8_t q[64];  // per group: 4 grid indices, then a word of 4 7-bit signs and the 4-bit scale on top
};
static_assert(sizeof(BlockIQ2_XXS) == 66);

struct IQ2_XXS {
  using Block = BlockIQ2_XXS;
  static constexpr Type type = Type::IQ2_XXS;
  static constexpr int block = 256, group = 32, code_bits = 8, zero = 64;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const uint32_t word = load_u32(b.q + g * 8 + 4);
    return {to_float(b.d) * (0.5f + static_cast<float>(word >> 28)) * 0.25f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const uint8_t* q = b.q + g * 8;
    const uint32_t word = load_u32(q + 4);
    for (int j = 0; j < 4; ++j) iq2_codes(iq2_xxs_grid(q[j]), even_signs(word >> 7 * j & 127), out + 8 * j);
  }
};

}  // namespace pyllm::quant
