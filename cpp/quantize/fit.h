// Scale, and where there is one minimum, of a group: the pair that leaves the least weighted squared error.
//
// Codes given, the best scale and minimum are a least-squares solution; scale and minimum given, the best codes
// are the nearest ones. A search over where the largest weight falls finds the region, then the two steps
// alternate until nothing improves.
#pragma once

#include "quantize/levels.h"

namespace pyllm::quantize::PYLLM_ISA {

// The weighted squared error of scale * level: sum of weight * (x - scale * nearest)^2.
template <typename Levels, int N>
float error(const Group<N>& group, float scale) {
  const V inv = splat(inverse(scale)), s = splat(scale);
  V total = splat(0.0f);
  for (int i = 0; i < group.vectors; ++i) {
    const V r = group.x[i] - s * Levels::nearest(group.x[i] * inv);
    total += group.weight[i] * r * r;
  }
  return sum(total);
}

// Sums over the codes that 1 / inv gives: of weight * x * level and of weight * level^2.
struct Fit {
  float xl = 0.0f, ll = 0.0f;
  float explained() const { return ll > 0.0f ? xl * xl / ll : 0.0f; }  // of the weighted sum of x^2
  float scale() const { return ll > 0.0f ? xl / ll : 0.0f; }
};

template <typename Levels, int N>
Fit fit(const Group<N>& group, float inv) {
  V xl = splat(0.0f), ll = splat(0.0f);
  for (int i = 0; i < group.vectors; ++i) {
    const V level = Levels::nearest(group.x[i] * splat(inv)), weighted = group.weight[i] * level;
    xl += weighted * group.x[i];
    ll += weighted * level;
  }
  return {sum(xl), sum(ll)};
}

template <int N>
float extreme(const Group<N>& group) {
  float best = 0.0f;
  for (int i = 0; i < group.vectors; ++i)
    for (int lane = 0; lane < kLanes; ++lane)
      if (std::fabs(group.x[i][lane]) > std::fabs(best)) best = group.x[i][lane];
  return best;
}

constexpr int kRefinements = 4;

// The best scale for x = scale * level. Negative where the largest weight is better off at the other end.
template <typename Levels, int N>
float fit_scale(const Group<N>& group, int tries = 3) {
  const float largest = extreme(group);
  if (std::fabs(largest) < 1e-30f) return 0.0f;
  Fit best;
  for (const float end : {Levels::low, Levels::high}) {
    if (end == 0.0f) continue;
    for (int i = -tries; i <= tries; ++i) {
      const float target =
          end + Levels::gap * 0.9f * static_cast<float>(i) / static_cast<float>(tries > 0 ? tries : 1);
      const Fit found = fit<Levels>(group, target / largest);
      if (found.explained() > best.explained()) best = found;
    }
  }
  for (int i = 0; i < kRefinements; ++i) {
    const Fit found = fit<Levels>(group, inverse(best.scale()));
    if (!(found.explained() > best.explained())) break;
    best = found;
  }
  return best.scale();
}

// x = scale * q - min with q from 0 to `top`.
struct Affine {
  float scale = 0.0f, min = 0.0f;
};

template <int N>
float error(const Group<N>& group, Affine a, float top) {
  const V inv = splat(inverse(a.scale)), s = splat(a.scale), m = splat(a.min);
  V total = splat(0.0f);
  for (int i = 0; i < group.vectors; ++i) {
    const V q = round(clamp((group.x[i] + m) * inv, 0.0f, top));
    const V r = group.x[i] + m - s * q;
    total += group.weight[i] * r * r;
  }
  return sum(total);
}

// Least squares for the codes that `a` gives; `free`: the minimum may have either sign.
template <int N>
Affine refit(const Group<N>& group, Affine a, float top, bool free) {
  const V inv = splat(inverse(a.scale)), m = splat(a.min);
  V w = splat(0.0f), wq = w, wqq = w, wx = w, wxq = w;
  for (int i = 0; i < group.vectors; ++i) {
    const V q = round(clamp((group.x[i] + m) * inv, 0.0f, top));
    const V weighted = group.weight[i] * q;
    w += group.weight[i];
    wq += weighted;
    wqq += weighted * q;
    wx += group.weight[i] * group.x[i];
    wxq += weighted * group.x[i];
  }
  const float sw = sum(w), sq = sum(wq), sqq = sum(wqq), sx = sum(wx), sxq = sum(wxq);
  const float determinant = sw * sqq - sq * sq;
  if (!(determinant > 1e-6f * sw * sqq)) return a;  // one code for all
  Affine out{(sw * sxq - sx * sq) / determinant, (sq * sxq - sqq * sx) / determinant};
  if (!free && out.min < 0.0f) out = {sqq > 0.0f ? sxq / sqq : 0.0f, 0.0f};
  return out;
}

template <int N>
Affine fit_affine(const Group<N>& group, int top, bool free, int tries = 7) {
  float low = group.x[0][0], high = low;
  for (int i = 0; i < group.vectors; ++i)
    for (int lane = 0; lane < kLanes; ++lane) {
      low = std::fmin(low, group.x[i][lane]);
      high = std::fmax(high, group.x[i][lane]);
    }
  if (!free) low = std::fmin(low, 0.0f);
  const float levels = static_cast<float>(top);
  if (!(high - low > 1e-30f)) return {0.0f, -low};
  // A group of equal or nearly equal weights far from zero is one level: the range says nothing then.
  Affine best{(high - low) / levels, -low};
  float least = error(group, best, levels);
  for (int i = 0; i <= tries; ++i) {
    // From a range a little too wide to one that cuts the largest weights off.
    const float steps = levels - 0.9f + 1.9f * static_cast<float>(i) / static_cast<float>(tries);
    Affine found{(high - low) / steps, -low};
    for (int k = 0; k < 2; ++k) {
      found = refit(group, found, levels, free);
      const float e = error(group, found, levels);
      if (!(e < least)) break;
      best = found;
      least = e;
    }
  }
  for (int i = 0; i < kRefinements; ++i) {
    const Affine found = refit(group, best, levels, free);
    const float e = error(group, found, levels);
    if (!(e < least)) break;
    best = found;
    least = e;
  }
  return best;
}

}  // namespace pyllm::quantize::PYLLM_ISA
