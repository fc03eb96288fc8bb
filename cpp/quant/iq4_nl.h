// 32 weights: w = d * level[q], 16 unevenly spaced levels. Source: the GGUF format's IQ4_NL.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockIQ4_NL {
  half d;
  uint8_t q[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockIQ4_NL) == 18);

struct LevelsIQ4 {
  static constexpr uint8_t table[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                        129, 141, 153, 166, 181, 197, 217, 241};
};

struct IQ4_NL : LevelsIQ4 {
  using Block = BlockIQ4_NL;
  static constexpr Type type = Type::IQ4_NL;
  static constexpr int block = 32, group = 32, code_bits = 4, zero = 128;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { nibbles(b.q, out); }
};

}  // namespace pyllm::quant
