// 32 weights: w = d * q + m, q in 0..31. Source: the GGUF format's Q5_1.
#pragma once

#include "quant/q5_0.h"

namespace pyllm::quant {

struct BlockQ5_1 {
  half d, m;
  uint8_t qh[4];   // fifth bits
  uint8_t ql[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockQ5_1) == 24);

struct Q5_1 {
  using Block = BlockQ5_1;
  static constexpr Type type = Type::Q5_1;
  static constexpr int block = 32, group = 32, code_bits = 5, zero = 0;
  static constexpr bool has_min = true;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), -to_float(b.m)}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { codes_5bit(b.qh, b.ql, out); }
};

}  // namespace pyllm::quant
