// 256 weights in 8 groups of 32: w = d * (0.5 + scale[g]) / 2 * (q - 64), q from a grid of 256 fours.
// Source: the GGUF format's IQ3_XXS.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ3_XXS {
  half d;
  uint8_t q[64];           // per 4 weights: grid index
  uint8_t sign_scale[32];  // per group a word: 4 7-bit signs (of 8 weights each) and the 4-bit scale on top
};
static_assert(sizeof(BlockIQ3_XXS) == 98);

struct IQ3_XXS {
  using Block = BlockIQ3_XXS;
  static constexpr Type type = Type::IQ3_XXS;
  static constexpr int block = 256, group = 32, code_bits = 8, zero = 64;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const uint32_t word = load_u32(b.sign_scale + g * 4);
    return {to_float(b.d) * (0.5f + static_cast<float>(word >> 28)) * 0.5f, 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const uint32_t word = load_u32(b.sign_scale + g * 4);
    const uint8_t* q = b.q + g * 8;
    for (int j = 0; j < 4; ++j) {
      const uint32_t signs = even_signs(word >> 7 * j & 127);
      iq3_xxs_codes(iq3_xxs_grid(q[2 * j]), signs, out + 8 * j);
      iq3_xxs_codes(iq3_xxs_grid(q[2 * j + 1]), signs >> 4, out + 8 * j + 4);
    }
  }
};

}  // namespace pyllm::quant
