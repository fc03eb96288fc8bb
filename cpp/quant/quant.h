// The contract of a quantized weight type. Every GGUF block type is, per group of 16 or 32 weights,
//
//     w = scale * (code - zero) - min          with an unsigned code of at most 8 bits,
//
// so a type states its block and how to read scale, min and codes; everything that multiplies, looks up,
// packs or uploads is written once over this. A type `Q` has:
//
//   using Block = ...;                    the bytes in the file, with a static_assert on its size
//   static constexpr Type type;
//   static constexpr int block;           weights per Block: 32 or 256
//   static constexpr int group;           weights that share scale and min: 16 or 32
//   static constexpr int code_bits;       of the raw codes: 2, 3, 4, 5, 6 or 8
//   static constexpr int zero;            subtracted from the code's value
//   static constexpr bool has_min;        false: min is 0 and never applied
//   static constexpr Scales scales;       how compactly scale and min can be kept (below)
//   static void codes(const Block&, int g, uint8_t* out);   raw codes of group g, in weight order: out[group]
//   static ScaleMin scale_min(const Block&, int g);         Half and Float types
//   static SuperScales super(const Block&);                 Super types, in place of scale_min
//   static constexpr uint8_t table[16];   optional: a raw 4-bit code's value; without it the value is the code
//
// The order of the floating point operations is that of the GGUF format's own dequantization, so that
// dequantized weights agree with it bit for bit.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/type.h"

namespace pyllm::quant {

// A little-endian word at any address.
PYLLM_HD inline uint32_t load_u32(const uint8_t* p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

// 32 codes of 4 bits in 16 bytes: low nibbles are the first 16, high nibbles the last.
PYLLM_HD inline void nibbles(const uint8_t* q, uint8_t* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = q[i] & 15;
    out[i + 16] = q[i] >> 4;
  }
}

struct ScaleMin {
  float scale;
  float min;
};

enum class Scales {
  Half,   // scale and min of every group are exactly a half each
  Super,  // scale = d * scale[g] and min = dmin * min[g]: two halfs per block and small integers per group
  Float,  // anything else: a float each
};

struct SuperScales {
  half d;
  half dmin;         // unused without has_min
  int8_t scale[16];  // [group]
  uint8_t min[16];   // [group]
};

template <typename Q>
constexpr bool has_table = requires { Q::table[0]; };

// scale and min of group g, whatever the type keeps.
template <typename Q>
PYLLM_HD inline ScaleMin scale_min(const typename Q::Block& b, int g) {
  if constexpr (Q::scales == Scales::Super) {
    const SuperScales s = Q::super(b);
    return {to_float(s.d) * static_cast<float>(s.scale[g]),
            Q::has_min ? to_float(s.dmin) * static_cast<float>(s.min[g]) : 0.0f};
  } else {
    return Q::scale_min(b, g);
  }
}

// Codes of group g as values: through the table where there is one.
template <typename Q>
PYLLM_HD inline void values(const typename Q::Block& b, int g, uint8_t* out) {
  Q::codes(b, g, out);
  if constexpr (has_table<Q>)
    for (int i = 0; i < Q::group; ++i) out[i] = Q::table[out[i]];
}

// Q::block weights as floats, bit for bit what the GGUF format defines.
template <typename Q>
PYLLM_HD inline void dequantize(const typename Q::Block& b, float* out) {
  for (int g = 0; g < Q::block / Q::group; ++g) {
    const ScaleMin s = scale_min<Q>(b, g);
    uint8_t code[Q::group];
    values<Q>(b, g, code);
    for (int i = 0; i < Q::group; ++i) {
      const float w = s.scale * static_cast<float>(static_cast<int>(code[i]) - Q::zero);
      out[g * Q::group + i] = Q::has_min ? w - s.min : w;
    }
  }
}

}  // namespace pyllm::quant
