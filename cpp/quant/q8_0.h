// 32 weights: w = d * q, q in -128..127. Source: the GGUF format's Q8_0.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockQ8_0 {
  half d;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

struct Q8_0 {
  using Block = BlockQ8_0;
  static constexpr Type type = Type::Q8_0;
  static constexpr int block = 32, group = 32, code_bits = 8, zero = 128;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) {
    for (int i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>(b.q[i] + 128);
  }
};

}  // namespace pyllm::quant
