// Scale, and where there is one minimum, of groups: the pair that leaves the least weighted squared error.
//
// Codes given, the best scale and minimum are a least-squares solution; scale and minimum given, the best codes
// are the nearest ones. A search over where the largest weight falls finds the region, then the two steps
// alternate.
#pragma once

#include "quantize/levels.h"

namespace pyllm::quantize::PYLLM_ISA {

constexpr int kRefinements = 4;

// Sums over the codes that a scale gives: of weight * x * level and of weight * level^2.
struct Fit {
  V xl{}, ll{};
  // Of the weighted sum of x^2: by the best scale, and by any.
  V explained() const { return select(ll > splat(0.0f), xl * xl / ll, splat(0.0f)); }
  V explained_by(V scale) const { return scale * (2.0f * xl - scale * ll); }
  V scale() const { return select(ll > splat(0.0f), xl / ll, splat(0.0f)); }

  void take(I where, const Fit& other) {
    xl = select(where, other.xl, xl);
    ll = select(where, other.ll, ll);
  }
  void take_better(const Fit& other) { take(other.explained() > explained(), other); }
};

template <typename Levels, int N>
Fit fit(const Groups<N>& g, V inv) {
  Fit out;
  for (int i = 0; i < N; ++i) {
    const V level = Levels::nearest(g.x[i] * inv), weighted = g.weight[i] * level;
    out.xl += weighted * g.x[i];
    out.ll += weighted * level;
  }
  return out;
}

// The weighted squared error of scale * level.
template <typename Levels, int N>
V error(const Groups<N>& g, V scale) {
  const V inv = inverse(scale);
  V total = splat(0.0f);
  for (int i = 0; i < N; ++i) {
    const V r = g.x[i] - scale * Levels::nearest(g.x[i] * inv);
    total += g.weight[i] * r * r;
  }
  return total;
}

// The weight of the largest magnitude, with its sign.
template <int N>
V extreme(const Groups<N>& g) {
  V best = splat(0.0f);
  for (int i = 0; i < N; ++i) best = select(abs(g.x[i]) > abs(best), g.x[i], best);
  return best;
}

// The best scale for x = scale * level. Negative where the largest weight is better off at the other end.
template <typename Levels, int N>
V fit_scale(const Groups<N>& g) {
  constexpr int tries = 3;  // to each side of an end
  const V inv = inverse(extreme(g));
  Fit best;
  for (const float end : {Levels::low, Levels::high}) {
    if (end == 0.0f || (end == Levels::high && Levels::symmetric)) continue;
    for (int i = -tries; i <= tries; ++i)
      best.take_better(fit<Levels>(g, splat(end + Levels::gap * 0.9f * static_cast<float>(i) / tries) * inv));
  }
  for (int i = 0; i < kRefinements; ++i) best.take_better(fit<Levels>(g, inverse(best.scale())));
  return best.scale();
}

// x = scale * q - min with q from 0 to `top`.
struct Affine {
  V scale{}, min{};

  V code(V x, V inv, float top) const { return round(clamp((x + min) * inv, 0.0f, top)); }
  void take(I where, const Affine& other) {
    scale = select(where, other.scale, scale);
    min = select(where, other.min, min);
  }
};

template <int N>
V error(const Groups<N>& g, const Affine& a, float top) {
  const V inv = inverse(a.scale);
  V total = splat(0.0f);
  for (int i = 0; i < N; ++i) {
    const V r = g.x[i] + a.min - a.scale * a.code(g.x[i], inv, top);
    total += g.weight[i] * r * r;
  }
  return total;
}

// Sums over the codes that an Affine gives, w: weight, q: code.
struct AffineSums {
  V w{}, wx{}, wxx{}, wq{}, wqq{}, wxq{};
};

template <int N>
AffineSums sums(const Groups<N>& g) {
  AffineSums s;
  for (int i = 0; i < N; ++i) {
    const V weighted = g.weight[i] * g.x[i];
    s.w += g.weight[i];
    s.wx += weighted;
    s.wxx += weighted * g.x[i];
  }
  return s;
}
template <int N>
AffineSums sums(const Groups<N>& g, AffineSums s, const Affine& a, float top) {
  const V inv = inverse(a.scale);
  s.wq = s.wqq = s.wxq = splat(0.0f);
  for (int i = 0; i < N; ++i) {
    const V q = a.code(g.x[i], inv, top), weighted = g.weight[i] * q;
    s.wq += weighted;
    s.wqq += weighted * q;
    s.wxq += weighted * g.x[i];
  }
  return s;
}

// What least squares make of the codes behind `s`; kept in best and least where that leaves less.
// `free`: the minimum may have either sign.
inline Affine solve(const AffineSums& s, bool free, Affine& best, V& least) {
  const V zero = splat(0.0f), determinant = s.w * s.wqq - s.wq * s.wq;
  Affine a{(s.w * s.wxq - s.wx * s.wq) / determinant, (s.wq * s.wxq - s.wqq * s.wx) / determinant};
  if (!free) a.take(a.min < zero, {s.wxq / s.wqq, zero});
  const V left = s.wxx - a.scale * s.wxq + a.min * s.wx;
  const I better = (determinant > 1e-6f * s.w * s.wqq) & (left < least);  // determinant 0: one code for all
  best.take(better, a);
  least = select(better, left, least);
  return a;
}

template <int N>
Affine fit_affine(Groups<N> g, float top, bool free) {
  constexpr int tries = 7, kIter = 2;
  V low = g.x[0], high = low;
  for (int i = 0; i < N; ++i) {
    low = min(low, g.x[i]);
    high = max(high, g.x[i]);
  }
  if (!free) low = min(low, splat(0.0f));
  // The sums are of small numbers, however far from zero all weights are.
  const V shift = free ? low : splat(0.0f), range = high - low;
  for (V& x : g.x) x -= shift;
  const AffineSums given = sums(g);
  Affine best{range / top, shift - low};
  V least = splat(INFINITY);
  for (int i = 0; i <= tries; ++i) {
    // From a range a little too wide to one that cuts the largest weights off.
    const float steps = top - 0.9f + 1.9f * static_cast<float>(i) / tries;
    Affine a{range / steps, shift - low};
    for (int k = 0; k < kIter; ++k) a = solve(sums(g, given, a, top), free, best, least);
  }
  for (int i = 0; i < kRefinements; ++i) solve(sums(g, given, best, top), free, best, least);
  best.min -= shift;
  best.take(!(range > splat(1e-30f)), {splat(0.0f), -low});
  return best;
}

}  // namespace pyllm::quantize::PYLLM_ISA
