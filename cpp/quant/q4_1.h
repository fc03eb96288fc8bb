// 32 weights: w = d * q + m, q in 0..15. Source: the GGUF format's Q4_1.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ4_1 {
  half d, m;
  uint8_t q[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockQ4_1) == 20);

struct Q4_1 {
  using Block = BlockQ4_1;
  static constexpr Type type = Type::Q4_1;
  static constexpr int block = 32, group = 32, code_bits = 4, zero = 0;
  static constexpr bool has_min = true;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), -to_float(b.m)}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { nibbles(b.q, out); }
};

}  // namespace pyllm::quant
