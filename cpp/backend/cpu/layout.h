// Packed weights: panels of 16 rows, so that one load feeds every row and each lane of a register is a row.
//
// A panel holds, for all its columns, first the scales, then the codes (both from 64-byte borders):
//   scales  Half:  per group       half scale[16] (and half min[16])
//           Super: per 256 columns half d[16] (and half dmin[16]),
//                  then per group  int8 scale[16] (and uint8 min[16])
//           Float: per group       float scale[16] (and float min[16])
//   codes   per 32 columns ("a step"), planes of bits; in a plane byte 4 r + j belongs to row r and column
//           4 q + j of quad q = 0..7. 2 bits: two loads of four quads; 4 bits: four loads, low nibbles quads
//           0..3, high 4..7; 8 bits: eight loads, one a quad; 1 bit: one load, bit q of each byte.
//           3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2 bits.
#pragma once

#include <stdint.h>

#include "quant/quant.h"

namespace pyllm::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kStep = 32;  // columns that one round of dot products covers: the activations' block

// Always inlined: of a shared copy the linker might keep the one compiled for another instruction set.
struct Layout {
  int code_bits = 0;
  int group = 0;  // weights that share a scale: 16 or 32
  int zero = 0;
  bool has_min = false;
  bool has_table = false;
  quant::Scales scales = quant::Scales::Float;

  [[gnu::always_inline]] constexpr bool operator==(const Layout&) const = default;

  [[gnu::always_inline]] constexpr int groups_per_step() const { return kStep / group; }
  // Bits of a value: what the code becomes through the table.
  [[gnu::always_inline]] constexpr int value_bits() const { return has_table ? 8 : code_bits; }

  [[gnu::always_inline]] constexpr int64_t scale_bytes(int64_t columns) const {
    const int64_t groups = columns / group, parts = has_min ? 2 : 1;
    int64_t bytes = 0;
    if (scales == quant::Scales::Half) bytes = groups * parts * 32;
    if (scales == quant::Scales::Super) bytes = columns / 256 * parts * 32 + groups * parts * 16;
    if (scales == quant::Scales::Float) bytes = groups * parts * 64;
    return (bytes + 63) / 64 * 64;
  }
  [[gnu::always_inline]] constexpr int64_t step_bytes() const { return 64 * code_bits; }
  [[gnu::always_inline]] constexpr int64_t panel_bytes(int64_t columns) const {
    return scale_bytes(columns) + columns / kStep * step_bytes();
  }
};

// How a type is packed. Types whose codes do not fill their bits well (8-bit codes of IQ1 to IQ3) are not kept
// packed: their panels are expanded just before use, which costs time but no memory.
template <typename Q>
[[gnu::always_inline]] constexpr Layout layout_of() {
  return {Q::code_bits, Q::group, Q::zero, Q::has_min, quant::has_table<Q>, Q::scales};
}

}  // namespace pyllm::cpu
