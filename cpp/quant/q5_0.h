// 32 weights: w = d * (q - 16), q in 0..31. Source: the GGUF format's Q5_0.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

// Fifth bits of 32 weights, bit i of the little-endian word for weight i; nibbles as in Q4_0.
PYLLM_HD inline void codes_5bit(const uint8_t* high, const uint8_t* low, uint8_t* out) {
  const uint32_t bits = load_u32(high);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<uint8_t>((low[i] & 15) | (bits >> i & 1) << 4);
    out[i + 16] = static_cast<uint8_t>(low[i] >> 4 | (bits >> (i + 16) & 1) << 4);
  }
}

struct BlockQ5_0 {
  half d;
  uint8_t qh[4];   // fifth bits
  uint8_t ql[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockQ5_0) == 22);

struct Q5_0 {
  using Block = BlockQ5_0;
  static constexpr Type type = Type::Q5_0;
  static constexpr int block = 32, group = 32, code_bits = 5, zero = 16;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { codes_5bit(b.qh, b.ql, out); }
};

}  // namespace pyllm::quant
