// Types whose codes are indices of a grid: 4 or 8 weights share one entry, their signs are kept beside it.
//
// A scale given, the best entry is the nearest one by the weighted distance, found by looking at all of them.
// The scale of a group is d * (2 n + 1) in units of its type; it is fitted as in super_blocks.h.
#pragma once

#include <algorithm>

#include "quantize/blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

inline float inverse(float step) { return std::fabs(step) > 1e-30f ? 1.0f / step : 0.0f; }
struct Fit1 {
  float xl = 0.0f, ll = 0.0f;
  float explained() const { return ll > 0.0f ? xl * xl / ll : 0.0f; }  // of the weighted sum of x^2
  float scale() const { return ll > 0.0f ? xl / ll : 0.0f; }
};
enum class Signs {
  Even,  // 7 bits for 8 weights: an even number is negative
  Free,  // a bit each
  None,  // the entries have signs of their own
};

// What a grid type keeps: `unit` * d * (2 n + 1), n from 0 to `top`, is a group's scale; `first` and `last`
// bound the search for it, in parts of what puts the largest weight on the largest level.
template <typename Q>
struct GridType;
template <>
struct GridType<quant::IQ2_XXS> {
  static constexpr int width = 8, count = 256, top = 15;
  static constexpr Signs signs = Signs::Even;
  static constexpr float unit = 0.125f, first = 0.6f, last = 1.1f;
  static void levels(int i, uint8_t* out) { quant::iq2_codes(quant::iq2_xxs_grid(i), 0, out); }
};
template <>
struct GridType<quant::IQ2_XS> : GridType<quant::IQ2_XXS> {
  static constexpr int count = 512;
  static void levels(int i, uint8_t* out) { quant::iq2_codes(quant::iq2_xs_grid(i), 0, out); }
};
template <>
struct GridType<quant::IQ2_S> : GridType<quant::IQ2_XXS> {
  static constexpr int count = 1024;
  static constexpr Signs signs = Signs::Free;
  static void levels(int i, uint8_t* out) { quant::iq2_codes(quant::iq2_s_grid(i), 0, out); }
};
template <>
struct GridType<quant::IQ3_XXS> {
  static constexpr int width = 4, count = 256, top = 15;
  static constexpr Signs signs = Signs::Even;
  static constexpr float unit = 0.25f, first = 0.7f, last = 1.1f;
  static void levels(int i, uint8_t* out) { quant::iq3_xxs_codes(quant::iq3_xxs_grid(i), 0, out); }
};
template <>
struct GridType<quant::IQ3_S> : GridType<quant::IQ3_XXS> {
  static constexpr int count = 512;
  static constexpr Signs signs = Signs::Free;
  static constexpr float unit = 1.0f;
  static void levels(int i, uint8_t* out) { quant::iq3_s_codes(quant::iq3_s_grid(i), 0, out); }
};
// Both signs of delta are entries: index + 2048 has the negative one.
template <>
struct GridType<quant::IQ1_S> {
  static constexpr int width = 8, count = 4096, top = 7;
  static constexpr Signs signs = Signs::None;
  static constexpr float unit = 0.125f, first = 0.4f, last = 0.9f;
  static void levels(int i, uint8_t* out) { quant::iq1_codes(quant::iq1_grid(i & 2047), i >> 11, out); }
};
template <>
struct GridType<quant::IQ1_M> : GridType<quant::IQ1_S> {};

// All entries, eight side by side.
template <typename Q>
struct Grid {
  using T = GridType<Q>;
  V level[T::count / kLanes][T::width];
  float largest = 0.0f;

  Grid() {
    for (int i = 0; i < T::count; ++i) {
      uint8_t code[T::width];
      T::levels(i, code);
      for (int k = 0; k < T::width; ++k) {
        const float value = static_cast<float>(code[k] - Q::zero);
        level[i / kLanes][k][i % kLanes] = value;
        largest = std::fmax(largest, std::fabs(value));
      }
    }
  }
  static const Grid& get() {
    static const Grid grid;
    return grid;
  }
  // The entry from [begin, end) that is nearest to y [width], errors weighted by `weight`.
  int nearest(const float* y, const float* weight, int begin, int end) const {
    V least = splat(INFINITY);
    I at{};
    V twice[T::width], w[T::width];
    for (int k = 0; k < T::width; ++k) {
      w[k] = splat(weight[k]);
      twice[k] = splat(2.0f * weight[k] * y[k]);
    }
    for (int i = begin / kLanes; i < end / kLanes; ++i) {
      V e = splat(0.0f);
      for (int k = 0; k < T::width; ++k) e += (w[k] * level[i][k] - twice[k]) * level[i][k];
      const I nearer = e < least;
      least = nearer ? e : least;
      at = nearer ? I{i, i, i, i, i, i, i, i} : at;
    }
    int best = 0;
    for (int lane = 1; lane < kLanes; ++lane)
      if (least[lane] < least[best] || (least[lane] == least[best] && at[lane] < at[best])) best = lane;
    return at[best] * kLanes + best;
  }
};

// A group's entries and what they leave.
template <typename Q>
struct Entries {
  static constexpr int count = Q::group / GridType<Q>::width;
  int index[count];
  Fit1 fit;
};

template <typename Q>
class GridGroup {
  using T = GridType<Q>;
  static constexpr int width = T::width, count = Entries<Q>::count;

 public:
  GridGroup(const float* x, const float* importance) {
    for (int i = 0; i < Q::group; ++i) {
      x_[i] = x[i];
      weight_[i] = importance[i];
      energy_ += importance[i] * x[i] * x[i];
    }
    if (T::signs != Signs::None)
      for (int j = 0; j < Q::group / 8; ++j) signs_[j] = take_signs(x_ + 8 * j, weight_ + 8 * j);
    for (const float v : x_) largest_ = std::fmax(largest_, std::fabs(v));
  }

  Entries<Q> entries(float scale) const {
    if constexpr (Q::type == Type::IQ1_S) {  // one delta for the whole group
      const Entries<Q> plus = search(scale, 0, T::count / 2), minus = search(scale, T::count / 2, T::count);
      return error(minus, scale) < error(plus, scale) ? minus : plus;
    } else {
      return search(scale, 0, T::count);
    }
  }
  float error(const Entries<Q>& e, float scale) const {
    return energy_ + scale * (scale * e.fit.ll - 2.0f * e.fit.xl);
  }
  float wanted_scale() const {
    if (largest_ < 1e-30f) return 0.0f;
    constexpr int tries = 5;
    Fit1 best;
    for (int i = 0; i <= tries; ++i) {
      const float part = T::first + (T::last - T::first) * static_cast<float>(i) / tries;
      const Fit1 found = entries(part * largest_ / Grid<Q>::get().largest).fit;
      if (found.explained() > best.explained()) best = found;
    }
    const Fit1 found = entries(best.scale()).fit;
    return (found.explained() > best.explained() ? found : best).scale();
  }
  uint8_t signs(int eight) const { return signs_[eight]; }

 private:
  Entries<Q> search(float scale, int begin, int end) const {
    const Grid<Q>& grid = Grid<Q>::get();
    const float inv = inverse(scale);
    Entries<Q> out;
    for (int j = 0; j < count; ++j) {
      const float *x = x_ + width * j, *weight = weight_ + width * j;
      float y[width];
      for (int k = 0; k < width; ++k) y[k] = x[k] * inv;
      const int i = out.index[j] = grid.nearest(y, weight, begin, end);
      for (int k = 0; k < width; ++k) {
        const float level = grid.level[i / kLanes][k][i % kLanes];
        out.fit.xl += weight[k] * x[k] * level;
        out.fit.ll += weight[k] * level * level;
      }
    }
    return out;
  }
  // Leaves magnitudes in x. Where the number of signs must be even, the weight that matters least gives way and
  // is left negative.
  static uint8_t take_signs(float* x, const float* weight) {
    int signs = 0, least = 0;
    for (int i = 0; i < 8; ++i) {
      if (x[i] < 0.0f) signs |= 1 << i;
      x[i] = std::fabs(x[i]);
      if (weight[i] * x[i] * x[i] < weight[least] * x[least] * x[least]) least = i;
    }
    if (T::signs == Signs::Even && __builtin_parity(static_cast<unsigned>(signs))) {
      signs ^= 1 << least;
      x[least] = -x[least];
    }
    return static_cast<uint8_t>(signs);
  }

  float x_[Q::group], weight_[Q::group];
  float energy_ = 0.0f, largest_ = 0.0f;
  uint8_t signs_[Q::group / 8] = {};
};

// What a block stores.
template <typename Q>
struct GridCodes {
  static constexpr int groups = Q::block / Q::group;
  half d{0};
  int scale[groups] = {};  // n
  Entries<Q> entries[groups];
  uint8_t signs[groups][Q::group / 8];
};

inline void put_word(uint32_t word, uint8_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint8_t>(word >> 8 * i);
}
inline uint32_t signs_and_scale(const uint8_t* signs, int scale) {
  uint32_t word = static_cast<uint32_t>(scale) << 28;
  for (int j = 0; j < 4; ++j) word |= static_cast<uint32_t>(signs[j] & 127) << 7 * j;
  return word;
}
inline void put_wide_scales(const int* n, uint8_t* out, int groups) {
  for (int g = 0; g < groups; g += 2) out[g / 2] = static_cast<uint8_t>(n[g] | n[g + 1] << 4);
}

inline void put(const GridCodes<quant::IQ2_XXS>& c, quant::BlockIQ2_XXS& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    for (int j = 0; j < 4; ++j) b.q[8 * g + j] = static_cast<uint8_t>(c.entries[g].index[j]);
    put_word(signs_and_scale(c.signs[g], c.scale[g]), b.q + 8 * g + 4);
  }
}
inline void put(const GridCodes<quant::IQ2_XS>& c, quant::BlockIQ2_XS& b) {
  b.d = c.d;
  for (int n = 0; n < 32; ++n)
    b.q[n] = static_cast<uint16_t>(c.entries[n / 2].index[n % 2] | (c.signs[n / 2][n % 2] & 127) << 9);
  put_wide_scales(c.scale, b.scale, 16);
}
inline void put(const GridCodes<quant::IQ2_S>& c, quant::BlockIQ2_S& b) {
  b.d = c.d;
  for (int n = 0; n < 32; ++n) {
    const int index = c.entries[n / 2].index[n % 2];
    b.ql[n] = static_cast<uint8_t>(index);
    b.qh[n / 4] |= static_cast<uint8_t>(index >> 8 << n % 4 * 2);
    b.signs[n] = c.signs[n / 2][n % 2];
  }
  put_wide_scales(c.scale, b.scale, 16);
}
inline void put(const GridCodes<quant::IQ3_XXS>& c, quant::BlockIQ3_XXS& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 8; ++k) b.q[8 * g + k] = static_cast<uint8_t>(c.entries[g].index[k]);
    put_word(signs_and_scale(c.signs[g], c.scale[g]), b.sign_scale + 4 * g);
  }
}
inline void put(const GridCodes<quant::IQ3_S>& c, quant::BlockIQ3_S& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 8; ++k) {
      const int index = c.entries[g].index[k];
      b.ql[8 * g + k] = static_cast<uint8_t>(index);
      b.qh[g] |= static_cast<uint8_t>(index >> 8 << k);
    }
    for (int j = 0; j < 4; ++j) b.signs[4 * g + j] = c.signs[g][j];
  }
  put_wide_scales(c.scale, b.scale, 8);
}
inline void put(const GridCodes<quant::IQ1_S>& c, quant::BlockIQ1_S& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    int word = c.scale[g] << 12 | c.entries[g].index[0] >> 11 << 15;
    for (int j = 0; j < 4; ++j) {
      const int index = c.entries[g].index[j] & 2047;
      b.ql[4 * g + j] = static_cast<uint8_t>(index);
      word |= index >> 8 << 3 * j;
    }
    b.qh[g] = static_cast<uint16_t>(word);
  }
}
inline void put(const GridCodes<quant::IQ1_M>& c, quant::BlockIQ1_M& b) {
  for (int g = 0; g < 16; ++g) {
    for (int j = 0; j < 2; ++j) {
      const int index = c.entries[g].index[j];
      b.ql[2 * g + j] = static_cast<uint8_t>(index);
      b.qh[g] |= static_cast<uint8_t>((index >> 8 & 7) << 4 * j | index >> 11 << (4 * j + 3));
    }
    b.scale[g / 4] = static_cast<uint16_t>(b.scale[g / 4] | c.scale[g] << g % 4 * 3);
  }
  for (int i = 0; i < 4; ++i) b.scale[i] = static_cast<uint16_t>(b.scale[i] | (c.d.bits >> 4 * i & 15) << 12);
}

template <typename Q>
void quantize_grid(const float* x, const float* importance, typename Q::Block& b) {
  using T = GridType<Q>;
  using Codes = GridCodes<Q>;
  Codes c;
  float wanted[Codes::groups], largest = 0.0f;
  for (int g = 0; g < Codes::groups; ++g) {
    wanted[g] = GridGroup<Q>(x + g * Q::group, importance + g * Q::group).wanted_scale();
    largest = std::fmax(largest, wanted[g]);
  }
  c.d = finite_half(largest / (T::unit * (2 * T::top + 1)));
  const auto scale = [&](int n) { return to_float(c.d) * T::unit * static_cast<float>(2 * n + 1); };
  Fit1 block;  // of d, the integers given
  for (int g = 0; g < Codes::groups; ++g) {
    const GridGroup<Q> group(x + g * Q::group, importance + g * Q::group);
    const int middle = static_cast<int>(
        std::clamp(std::nearbyint((wanted[g] * inverse(scale(0)) - 1.0f) * 0.5f), 0.0f, float{T::top}));
    float least = INFINITY;
    Fit1 chosen;
    for (int n = std::max(middle - 1, 0); n <= std::min(middle + 1, T::top); ++n) {
      const Entries<Q> found = group.entries(scale(n));
      const float e = group.error(found, scale(n));
      if (!(e < least)) continue;
      least = e;
      c.scale[g] = n;
      chosen = found.fit;
    }
    const float factor = T::unit * static_cast<float>(2 * c.scale[g] + 1);
    block.xl += chosen.xl * factor;
    block.ll += chosen.ll * factor * factor;
  }
  if (block.ll > 0.0f) c.d = finite_half(block.scale());
  for (int g = 0; g < Codes::groups; ++g) {
    const GridGroup<Q> group(x + g * Q::group, importance + g * Q::group);
    c.entries[g] = group.entries(scale(c.scale[g]));
    for (int j = 0; j < Q::group / 8; ++j) c.signs[g][j] = group.signs(j);
  }
  put(c, b);
}

}  // namespace pyllm::quantize::PYLLM_ISA
