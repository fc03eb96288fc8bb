// 256 weights in 8 groups of 32: w = d * (1 + 2 * scale[g]) * (q - 64), q from a grid of 512 fours.
// Source: the GGUF format's IQ3_S.
#pragma once

#include "quant/grids.h"
#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ3_S {
  half d;
  uint8_t ql[64];     // per 4 weights: low 8 bits of the grid index
  uint8_t qh[8];      // per group: ninth bits of its 8 grid indices
  uint8_t signs[32];  // per 8 weights: bit i for weight i
  uint8_t scale[4];   // low nibble group 2i, high nibble group 2i + 1
};
static_assert(sizeof(BlockIQ3_S) == 110);

struct IQ3_S {
  using Block = BlockIQ3_S;
  static constexpr Type type = Type::IQ3_S;
  static constexpr int block = 256, group = 32, code_bits = 8, zero = 64;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int g) {
    const int scale = b.scale[g / 2] >> g % 2 * 4 & 15;
    return {to_float(b.d) * static_cast<float>(1 + 2 * scale), 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    for (int k = 0; k < 8; ++k) {
      const int index = b.ql[8 * g + k] | (b.qh[g] >> k & 1) << 8;
      iq3_s_codes(iq3_s_grid(index), static_cast<uint32_t>(b.signs[4 * g + k / 2] >> k % 2 * 4), out + 4 * k);
    }
  }
};

}  // namespace pyllm::quant
