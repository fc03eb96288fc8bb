// 256 weights: w = d * (q - 1), q in 0..2, five to a byte. Source: the GGUF format's TQ1_0.
#pragma once

#include "quant/quant.h"

namespace pyllm::quant {

struct BlockTQ1_0 {
  uint8_t q[48];  // 5 digits a byte: bytes 0..31 hold weights 0..159, bytes 32..47 weights 160..239
  uint8_t qh[4];  // 4 digits a byte: weights 240..255
  half d;
};
static_assert(sizeof(BlockTQ1_0) == 54);

struct TQ1_0 {
  using Block = BlockTQ1_0;
  static constexpr Type type = Type::TQ1_0;
  static constexpr int block = 256, group = 32, code_bits = 2, zero = 1;
  static constexpr bool has_min = false;
  static constexpr Scales scales = Scales::Half;

  PYLLM_HD static ScaleMin scale_min(const Block& b, int) { return {to_float(b.d), 0.0f}; }
  PYLLM_HD static void codes(const Block& b, int g, uint8_t* out) {
    if (g < 5) {
      digits(b.q, 32, g, out);
    } else if (g < 7) {
      digits(b.q + 32, 16, 2 * (g - 5), out);
      digits(b.q + 32, 16, 2 * (g - 5) + 1, out + 16);
    } else {
      digits(b.q + 32, 16, 4, out);
      for (int n = 0; n < 4; ++n) digits(b.qh, 4, n, out + 16 + 4 * n);
    }
  }

 private:
  // A byte is a fraction of 256 in base 3: multiplying by 3^n drops its first n digits (modulo 256),
  // and the next one is the integer part of three times what is left.
  PYLLM_HD static void digits(const uint8_t* bytes, int count, int n, uint8_t* out) {
    const int power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
    for (int i = 0; i < count; ++i) out[i] = static_cast<uint8_t>((bytes[i] * power & 255) * 3 >> 8);
  }
};

}  // namespace pyllm::quant
