"""Writes cpp/quant/grids.h: the lookup grids of the IQ1, IQ2 and IQ3 formats, taken from the `gguf` package.

Run from the repository's root: python tests/golden/make_grids.py && clang-format -i cpp/quant/grids.h
The package keeps a grid as packed digits (2 bits each for eights of 3 values, 4 bits each for fours of 8);
so does the header: 16 bits an entry, first weight in the lowest digit.
"""

from __future__ import annotations

from pathlib import Path

import gguf.quants
import numpy as np

HEAD = """\
// The lookup grids of the IQ formats and how an entry becomes codes. An entry is 16 bits: 8 digits of 2 bits
// (IQ1, IQ2) or 4 of 4 bits (IQ3), first weight lowest. Written by tests/golden/make_grids.py.
#pragma once

#include <cstdint>

#include "core/half.h"

namespace pyllm::quant {

// 7 stored signs of 8 weights: the eighth makes the number of negative ones even.
PYLLM_HD inline uint32_t even_signs(uint32_t seven) {
  uint32_t parity = seven ^ seven >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return seven | (parity & 1) << 7;
}

PYLLM_HD inline uint8_t signed_code(int magnitude, uint32_t negative) {
  return static_cast<uint8_t>(64 + (negative ? -magnitude : magnitude));
}

// Digits 0, 1, 2 stand for 8, 25, 43; bit i of signs set: weight i is negative.
PYLLM_HD inline void iq2_codes(uint32_t entry, uint32_t signs, uint8_t* out) {
  for (int i = 0; i < 8; ++i) {
    const int digit = static_cast<int>(entry >> 2 * i & 3);
    out[i] = signed_code(8 + 17 * digit + digit / 2, signs >> i & 1);
  }
}

// Digits 0..7 stand for 4, 12, 20 ... 52 and 62.
PYLLM_HD inline void iq3_xxs_codes(uint32_t entry, uint32_t signs, uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    const int digit = static_cast<int>(entry >> 4 * i & 7);
    out[i] = signed_code(4 + 8 * digit + (digit == 7 ? 2 : 0), signs >> i & 1);
  }
}

// Digits 0..7 stand for 1, 3, 5 ... 15.
PYLLM_HD inline void iq3_s_codes(uint32_t entry, uint32_t signs, uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    const int digit = static_cast<int>(entry >> 4 * i & 7);
    out[i] = signed_code(1 + 2 * digit, signs >> i & 1);
  }
}

// Digits 0, 1, 2 stand for -1, 0, 1; delta is an eighth, so that a code counts eighths from 16.
PYLLM_HD inline void iq1_codes(uint32_t entry, int negative_delta, uint8_t* out) {
  const int base = 16 - 8 + (negative_delta ? -1 : 1);
  for (int i = 0; i < 8; ++i) out[i] = static_cast<uint8_t>(base + 8 * static_cast<int>(entry >> 2 * i & 3));
}

// A grid lives inside its accessor: there, device code gets its own copy of it.
"""

GRIDS = {  # accessor: (the package's class, its values in digit order)
    "iq2_xxs_grid": ("IQ2_XXS", (8, 25, 43)),
    "iq2_xs_grid": ("IQ2_XS", (8, 25, 43)),
    "iq2_s_grid": ("IQ2_S", (8, 25, 43)),
    "iq3_xxs_grid": ("IQ3_XXS", (4, 12, 20, 28, 36, 44, 52, 62)),
    "iq3_s_grid": ("IQ3_S", (1, 3, 5, 7, 9, 11, 13, 15)),
    "iq1_grid": ("IQ1_S", (-1, 0, 1)),
}


def accessor(name: str, kind: str, values: tuple[int, ...]) -> str:
    source = getattr(gguf.quants, kind)
    assert source.grid_map == values, f"{kind}: expected digits for {values}, the package has {source.grid_map}"
    entries = np.frombuffer(bytes.fromhex(source.grid_hex.decode()), dtype="<u2")
    assert entries.size == source.grid_shape[0]
    numbers = ", ".join(f"0x{entry:04x}" for entry in entries)
    return (
        f"PYLLM_HD inline uint16_t {name}(int index) {{\n"
        f"  static constexpr uint16_t grid[] = {{{numbers}}};\n"
        f"  static_assert(sizeof(grid) == 2 * {entries.size});\n"
        "  return grid[index];\n}\n"
    )


def main() -> None:
    parts = [
        HEAD,
        *(accessor(name, *source) for name, source in GRIDS.items()),
        "}  // namespace pyllm::quant\n",
    ]
    (Path(__file__).parents[2] / "cpp/quant/grids.h").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
