// 32 weights: w = d * (q - 8), q in 0..15. Source: the GGUF format's Q4_0.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ4_0 {
  half d;
  uint8_t q[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockQ4_0) == 18);

struct Q4_0 {
  using Block = BlockQ4_0;
  static constexpr Type type = Type::Q4_0;
  static constexpr int block = 32, group = 32, code_bits = 4, zero = 8;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { nibbles(b.q, out); }
};

}  // namespace pyllm::quant
