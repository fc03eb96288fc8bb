// 256 weights: w = d * (q - 1), q in 0..3 (3 never written). Source: the GGUF format's TQ2_0.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockTQ2_0 {
  uint8_t q[64];
  half d;
};
static_assert(sizeof(BlockTQ2_0) == 66);

struct TQ2_0 {
  using Block = BlockTQ2_0;
  static constexpr Type type = Type::TQ2_0;
  static constexpr int block = 256, group = 32, code_bits = 2, zero = 1;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  // A half of 128 weights is four runs of 32: run r is bits 2r and 2r + 1 of its 32 bytes.
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    const int shift = g % 4 * 2;
    const uint8_t* q = b.q + g / 4 * 32;
    for (int i = 0; i < 32; ++i) out[i] = q[i] >> shift & 3;
  }
};

}  // namespace pyllm::quant
