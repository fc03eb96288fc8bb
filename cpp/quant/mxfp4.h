// 32 weights: w = 2^(e - 128) * v, v the E2M1 value doubled (so that it is an integer) in -12..12.
// Source: OCP Microscaling Formats 1.0 and the GGUF format's MXFP4.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockMXFP4 {
  uint8_t e;      // E8M0
  uint8_t q[16];  // low nibbles: weights 0..15, high nibbles: 16..31
};
static_assert(sizeof(BlockMXFP4) == 17);

struct MXFP4 {
  using Block = BlockMXFP4;
  static constexpr Type type = Type::MXFP4;
  static constexpr int block = 32, group = 32, code_bits = 4, zero = 12;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Float;
  static constexpr uint8_t table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) {
    // 2^-128 and 2^-127 are subnormal floats: their bit moves through the mantissa.
    const uint32_t bits = b.e < 2 ? 0x00200000u << b.e : static_cast<uint32_t>(b.e - 1) << 23;
    return {bits_to_float(bits), 0.0f};
  }
  PYLLM_HD static void codes(const Block& b, int, uint8_t* out) { nibbles(b.q, out); }
};

}  // namespace pyllm::quant
