// What a code stands for before the scale: consecutive integers, or the levels of a table.
#pragma once

#include <array>

#include "quantize/group.h"

namespace pyllm::quantize::PYLLM_ISA {

// The integers Low to High.
template <int Low, int High>
struct Integers {
  static constexpr float low = Low, high = High, gap = 1.0f;  // gap: between the last two levels
  static constexpr bool symmetric = Low == -High;
  static V nearest(V y) { return round(clamp(y, low, high)); }
};

// The sixteen values of Q's table, less its zero.
template <typename Q>
struct Table {
  static constexpr float level(int code) { return static_cast<float>(Q::table[code] - Q::zero); }
  static constexpr std::array<float, 16> sorted() {
    std::array<float, 16> levels{};
    for (int i = 0; i < 16; ++i) {
      int at = i;
      for (; at > 0 && levels[at - 1] > level(i); --at) levels[at] = levels[at - 1];
      levels[at] = level(i);
    }
    return levels;
  }
  static constexpr std::array<float, 16> levels = sorted();
  static constexpr std::array<uint8_t, 16> codes = [] {
    std::array<uint8_t, 16> found{};
    for (int at = 0; at < 16; ++at)
      while (level(found[at]) != levels[at]) ++found[at];
    return found;
  }();
  static constexpr float low = levels[0], high = levels[15], gap = levels[1] - levels[0];
  static constexpr bool symmetric = low == -high;

  static float border(int i) { return (levels[i - 1] + levels[i]) * 0.5f; }
  static V nearest(V y) {
    V value = splat(low);
    for (int i = 1; i < 16; ++i)
      value += select(y > splat(border(i)), splat(levels[i] - levels[i - 1]), splat(0.0f));
    return value;
  }
  // The place of the nearest one in `levels`.
  static I place(V y) {
    I at{};
    for (int i = 1; i < 16; ++i) at -= y > splat(border(i));
    return at;
  }
};

}  // namespace pyllm::quantize::PYLLM_ISA
