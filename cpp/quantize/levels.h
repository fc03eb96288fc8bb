// What a code stands for before the scale: consecutive integers, or the levels of a table.
#pragma once

#include <array>

#include "quantize/group.h"

namespace pyllm::quantize::PYLLM_ISA {

// The integers Low to High.
template <int Low, int High>
struct Integers {
  static constexpr float low = Low, high = High, gap = 1.0f;  // gap: between the last two levels
  static V nearest(V y) { return round(clamp(y, low, high)); }
};

// The sixteen values of Q's table, less its zero.
template <typename Q>
struct Table {
  static constexpr std::array<float, 16> sorted() {
    std::array<float, 16> levels{};
    for (int i = 0; i < 16; ++i) {
      const float level = static_cast<float>(Q::table[i] - Q::zero);
      int at = i;
      for (; at > 0 && levels[at - 1] > level; --at) levels[at] = levels[at - 1];
      levels[at] = level;
    }
    return levels;
  }
  static constexpr std::array<float, 16> levels = sorted();
  static constexpr float low = levels[0], high = levels[15], gap = levels[1] - levels[0];

  static V nearest(V y) {
    V value = splat(low);
    for (int i = 1; i < 16; ++i) {
      const V border = splat((levels[i - 1] + levels[i]) * 0.5f), step = splat(levels[i] - levels[i - 1]);
      value += y > border ? step : splat(0.0f);
    }
    return value;
  }
};

}  // namespace pyllm::quantize::PYLLM_ISA
