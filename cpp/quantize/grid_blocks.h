// Types whose codes are indices of a grid: 4 or 8 weights share one entry, their signs are kept beside it.
//
// A scale given, the best entry is the nearest one by the weighted distance, found by looking at all of them.
// An entry's distance is the sum of its halves', and few halves differ: theirs are computed once for all
// entries. The scale of a group is d * (2 n + 1) in units of its type; it is fitted as in super_blocks.h.
#pragma once

#include <algorithm>

#include "quantize/blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

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

template <typename Q>
class Grid {
  using T = GridType<Q>;
  static constexpr int width = T::width / 2;

 public:
  float largest = 0.0f;

  Grid() {
    for (int i = 0; i < T::count; ++i) {
      uint8_t code[T::width];
      T::levels(i, code);
      for (int h = 0; h < 2; ++h) {
        float level[width];
        for (int k = 0; k < width; ++k) {
          level[k] = static_cast<float>(code[h * width + k] - Q::zero);
          largest = std::fmax(largest, std::fabs(level[k]));
        }
        int at = 0;
        while (at < halves_[h] && memcmp(half_[h][at], level, sizeof(level)) != 0) ++at;
        if (at == halves_[h]) memcpy(half_[h][halves_[h]++], level, sizeof(level));
        of_[i][h] = static_cast<uint8_t>(at);
      }
    }
  }
  static const Grid& get() {
    static const Grid grid;
    return grid;
  }
  float level(int entry, int k) const { return half_[k / width][of_[entry][k / width]][k % width]; }

  // In each lane the entry from [begin, end) that is nearest to y [T::width], errors weighted by `weight`.
  I nearest(const V* y, const V* weight, int begin, int end) const {
    V distance[2][kHalves];
    for (int h = 0; h < 2; ++h)
      for (int n = 0; n < halves_[h]; ++n) {
        V e = splat(0.0f);
        for (int k = 0; k < width; ++k) {
          const float level = half_[h][n][k];
          e += weight[h * width + k] * (level * (level - 2.0f * y[h * width + k]));
        }
        distance[h][n] = e;
      }
    V least = splat(INFINITY);
    I at{};
    for (int i = begin; i < end; ++i) {
      const V e = distance[0][of_[i][0]] + distance[1][of_[i][1]];
      at = e < least ? I{i, i, i, i, i, i, i, i} : at;
      least = min(e, least);
    }
    return at;
  }

 private:
  static constexpr int kHalves = 256;  // at most: four of four levels, or two of sixteen
  float half_[2][kHalves][width];
  int halves_[2] = {};
  uint8_t of_[T::count][2];
};

// The entries of eight groups and what they leave.
template <typename Q>
struct Entries {
  static constexpr int count = Q::group / GridType<Q>::width;
  I index[count];
  Fit fit;

  void take(I where, const Entries& other) {
    for (int j = 0; j < count; ++j) index[j] = where ? other.index[j] : index[j];
    fit.take(where, other.fit);
  }
};

// Eight groups, one in each lane.
template <typename Q>
class GridGroups {
  using T = GridType<Q>;
  static constexpr int width = T::width, weights = Q::group * kLanes;

 public:
  GridGroups(const float* x, const float* importance) {
    float magnitude[weights];
    memcpy(magnitude, x, sizeof(magnitude));
    if (T::signs != Signs::None)
      for (int j = 0; j < weights / 8; ++j) signs_[j] = take_signs(magnitude + 8 * j, importance + 8 * j);
    g_ = {magnitude, importance};
  }

  Entries<Q> entries(V scale) const {
    if constexpr (Q::type == Type::IQ1_S) {  // one delta for the whole group
      Entries<Q> best = search(scale, 0, T::count / 2);
      const Entries<Q> minus = search(scale, T::count / 2, T::count);
      best.take(minus.fit.explained_by(scale) > best.fit.explained_by(scale), minus);
      return best;
    } else {
      return search(scale, 0, T::count);
    }
  }
  V wanted_scale() const {
    constexpr int tries = 5;
    const V unit = abs(extreme(g_)) / Grid<Q>::get().largest;
    Fit best;
    for (int i = 0; i <= tries; ++i) {
      const float part = T::first + (T::last - T::first) * static_cast<float>(i) / tries;
      best.take_better(entries(part * unit).fit);
    }
    best.take_better(entries(best.scale()).fit);
    return best.scale();
  }
  uint8_t signs(int group, int eight) const { return signs_[group * (Q::group / 8) + eight]; }

 private:
  Entries<Q> search(V scale, int begin, int end) const {
    const Grid<Q>& grid = Grid<Q>::get();
    const V inv = inverse(scale);
    Entries<Q> out;
    for (int j = 0; j < Entries<Q>::count; ++j) {
      const V *x = g_.x + width * j, *weight = g_.weight + width * j;
      V y[width];
      for (int k = 0; k < width; ++k) y[k] = x[k] * inv;
      const I at = out.index[j] = grid.nearest(y, weight, begin, end);
      for (int k = 0; k < width; ++k) {
        V level;
        for (int lane = 0; lane < kLanes; ++lane) level[lane] = grid.level(at[lane], k);
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

  Groups<Q::group> g_;
  uint8_t signs_[weights / 8] = {};
};

// What a block stores.
template <typename Q>
struct GridCodes {
  static constexpr int groups = Q::block / Q::group;
  half d{0};
  int scale[groups] = {};  // n
  int index[groups][Entries<Q>::count];
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
    for (int j = 0; j < 4; ++j) b.q[8 * g + j] = static_cast<uint8_t>(c.index[g][j]);
    put_word(signs_and_scale(c.signs[g], c.scale[g]), b.q + 8 * g + 4);
  }
}
inline void put(const GridCodes<quant::IQ2_XS>& c, quant::BlockIQ2_XS& b) {
  b.d = c.d;
  for (int n = 0; n < 32; ++n)
    b.q[n] = static_cast<uint16_t>(c.index[n / 2][n % 2] | (c.signs[n / 2][n % 2] & 127) << 9);
  put_wide_scales(c.scale, b.scale, 16);
}
inline void put(const GridCodes<quant::IQ2_S>& c, quant::BlockIQ2_S& b) {
  b.d = c.d;
  for (int n = 0; n < 32; ++n) {
    const int index = c.index[n / 2][n % 2];
    b.ql[n] = static_cast<uint8_t>(index);
    b.qh[n / 4] |= static_cast<uint8_t>(index >> 8 << n % 4 * 2);
    b.signs[n] = c.signs[n / 2][n % 2];
  }
  put_wide_scales(c.scale, b.scale, 16);
}
inline void put(const GridCodes<quant::IQ3_XXS>& c, quant::BlockIQ3_XXS& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 8; ++k) b.q[8 * g + k] = static_cast<uint8_t>(c.index[g][k]);
    put_word(signs_and_scale(c.signs[g], c.scale[g]), b.sign_scale + 4 * g);
  }
}
inline void put(const GridCodes<quant::IQ3_S>& c, quant::BlockIQ3_S& b) {
  b.d = c.d;
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 8; ++k) {
      const int index = c.index[g][k];
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
    int word = c.scale[g] << 12 | c.index[g][0] >> 11 << 15;
    for (int j = 0; j < 4; ++j) {
      const int index = c.index[g][j] & 2047;
      b.ql[4 * g + j] = static_cast<uint8_t>(index);
      word |= index >> 8 << 3 * j;
    }
    b.qh[g] = static_cast<uint16_t>(word);
  }
}
inline void put(const GridCodes<quant::IQ1_M>& c, quant::BlockIQ1_M& b) {
  for (int g = 0; g < 16; ++g) {
    for (int j = 0; j < 2; ++j) {
      const int index = c.index[g][j];
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
  constexpr int parts = Codes::groups / kLanes, weights = Q::group * kLanes;
  const auto part = [&](int p) { return GridGroups<Q>(x + p * weights, importance + p * weights); };
  Codes c;
  V wanted[parts], n[parts] = {};
  float largest = 0.0f;
  for (int p = 0; p < parts; ++p) {
    wanted[p] = part(p).wanted_scale();
    for (int lane = 0; lane < kLanes; ++lane) largest = std::fmax(largest, wanted[p][lane]);
  }
  c.d = finite_half(largest / (T::unit * (2 * T::top + 1)));
  const auto scale = [&](V n) { return to_float(c.d) * T::unit * (2.0f * n + 1.0f); };
  float xl = 0.0f, ll = 0.0f;  // for the best d, the integers given
  for (int p = 0; p < parts; ++p) {
    const GridGroups<Q> groups = part(p);
    const V middle = round(clamp((wanted[p] * inverse(scale(splat(0.0f))) - 1.0f) * 0.5f, 0.0f, T::top));
    V most = splat(-INFINITY);
    Fit chosen;
    for (const float step : {-1.0f, 0.0f, 1.0f}) {
      const V tried = clamp(middle + step, 0.0f, T::top);
      const Fit found = groups.entries(scale(tried)).fit;
      const V explained = found.explained_by(scale(tried));
      const I better = explained > most;
      most = select(better, explained, most);
      n[p] = select(better, tried, n[p]);
      chosen.take(better, found);
    }
    const V factor = T::unit * (2.0f * n[p] + 1.0f);
    xl += sum(chosen.xl * factor);
    ll += sum(chosen.ll * factor * factor);
  }
  if (ll > 0.0f) c.d = finite_half(xl / ll);
  for (int p = 0; p < parts; ++p) {
    const GridGroups<Q> groups = part(p);
    const Entries<Q> best = groups.entries(scale(n[p]));
    for (int lane = 0; lane < kLanes; ++lane) {
      const int g = p * kLanes + lane;
      c.scale[g] = static_cast<int>(n[p][lane]);
      for (int j = 0; j < Entries<Q>::count; ++j) c.index[g][j] = best.index[j][lane];
      for (int j = 0; j < Q::group / 8; ++j) c.signs[g][j] = groups.signs(lane, j);
    }
  }
  put(c, b);
}

}  // namespace pyllm::quantize::PYLLM_ISA
