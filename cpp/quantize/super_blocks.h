// Types whose scales and minima are themselves small integers times a half of a block of 256.
//
// Every group is fitted on its own first. Then the integers: those nearest to what the groups want and their
// neighbours are tried, and the block's halfs are solved for again.
#pragma once

#include "quantize/blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

constexpr int kRounds = 2;  // of halfs, then integers

// The groups of a block, eight in each part.
template <typename Q>
struct Parts {
  static constexpr int count = Q::block / Q::group / kLanes;
  Groups<Q::group> part[count];

  Parts(const float* x, const float* importance) {
    constexpr int weights = Q::group * kLanes;
    for (int p = 0; p < count; ++p) part[p] = {x + p * weights, importance + p * weights};
  }
};

// scale = d * n, n an integer in [Low, High].
template <typename Q, int Low, int High>
struct ScaledBlock {
  static constexpr int parts = Parts<Q>::count;
  float d = 0.0f;
  V n[parts] = {};
  float explained = -INFINITY;  // of the weighted sum of x^2
  float solved = 0.0f;          // the best d for the codes and n

  // The best integers for d among those next to `near`.
  ScaledBlock(const Parts<Q>& block, float d, const V* near) : d(d), explained(0.0f) {
    float xl = 0.0f, ll = 0.0f;
    for (int p = 0; p < parts; ++p) {
      V most = splat(-INFINITY);
      Fit chosen;
      for (const float step : {0.0f, -1.0f, 1.0f}) {
        const V tried = clamp(near[p] + step, Low, High), scale = d * tried;
        const Fit found = fit<Levels<Q>>(block.part[p], inverse(scale));
        const I better = found.explained_by(scale) > most;
        most = select(better, found.explained_by(scale), most);
        n[p] = select(better, tried, n[p]);
        chosen.take(better, found);
      }
      explained += sum(most);
      xl += sum(chosen.xl * n[p]);
      ll += sum(chosen.ll * n[p] * n[p]);
    }
    solved = ll > 0.0f ? to_float(finite_half(xl / ll)) : d;
  }
};

template <typename Q, int Low, int High>
void quantize_super_scaled(const float* x, const float* importance, typename Q::Block& b) {
  using Whole = ScaledBlock<Q, Low, High>;
  constexpr int parts = Whole::parts;
  const Parts<Q> block(x, importance);
  V wanted[parts];
  float largest = 0.0f;
  for (int p = 0; p < parts; ++p) {
    wanted[p] = fit_scale<Levels<Q>>(block.part[p]);
    for (int lane = 0; lane < kLanes; ++lane)
      if (std::fabs(wanted[p][lane]) > std::fabs(largest)) largest = wanted[p][lane];
  }
  const auto fit_from = [&](float d) {
    V near[parts];
    for (int p = 0; p < parts; ++p) near[p] = round(clamp(wanted[p] * inverse(splat(d)), Low, High));
    return Whole(block, d, near);
  };
  // The largest scale takes the integer with the most magnitude, or the one at the other end.
  Whole best = fit_from(to_float(finite_half(largest / Low)));
  if (const Whole other = fit_from(to_float(finite_half(largest / High))); other.explained > best.explained)
    best = other;
  for (int i = 0; i < kRounds; ++i) {
    const Whole next(block, best.solved, best.n);
    if (!(next.explained > best.explained)) break;
    best = next;
  }
  quant::SuperScales s{finite_half(best.d), {}, {}, {}};
  uint8_t code[Q::block];
  for (int g = 0; g < Q::block / Q::group; ++g) {
    const float n = best.n[g / kLanes][g % kLanes];
    s.scale[g] = static_cast<int8_t>(n);
    write_codes<Q>(x + g * Q::group, Q::group, best.d * n, code + g * Q::group);
  }
  put_scales(s, b);
  put_codes(code, b);
}

// scale = d * n and min = dmin * m, n and m integers in [0, High].
template <typename Q, int High>
struct AffineBlock {
  static constexpr int parts = Parts<Q>::count;
  static constexpr float top = (1 << Q::code_bits) - 1;
  float d = 0.0f, dmin = 0.0f;
  V n[parts] = {}, m[parts] = {};
  float left = 0.0f;                          // the weighted squared error
  float solved_d = 0.0f, solved_dmin = 0.0f;  // the best for the codes, n and m

  Affine at(V scale, V min) const { return {d * scale, dmin * min}; }

  // The best integers for d and dmin among those next to `scale` and `min`.
  AffineBlock(const Parts<Q>& block, float d, float dmin, const V* scale, const V* min) : d(d), dmin(dmin) {
    // a: n * code.
    float aa = 0.0f, am = 0.0f, mm = 0.0f, xa = 0.0f, xm = 0.0f;
    for (int p = 0; p < parts; ++p) {
      const auto& g = block.part[p];
      V least = splat(INFINITY);
      for (const float step : {-1.0f, 0.0f, 1.0f})
        for (const float step_min : {-1.0f, 0.0f, 1.0f}) {
          const V tried = clamp(scale[p] + step, 0.0f, High), tried_min = clamp(min[p] + step_min, 0.0f, High);
          const V e = error(g, at(tried, tried_min), top);
          const I better = e < least;
          least = select(better, e, least);
          n[p] = select(better, tried, n[p]);
          m[p] = select(better, tried_min, m[p]);
        }
      left += sum(least);
      const AffineSums s = sums(g, sums(g), at(n[p], m[p]), top);
      aa += sum(n[p] * n[p] * s.wqq);
      am += sum(n[p] * m[p] * s.wq);
      mm += sum(m[p] * m[p] * s.w);
      xa += sum(n[p] * s.wxq);
      xm += sum(m[p] * s.wx);
    }
    const float determinant = aa * mm - am * am;
    const bool both = determinant > 1e-6f * aa * mm;
    solved_d = both ? (xa * mm - xm * am) / determinant : aa > 0.0f ? (xa + dmin * am) / aa : d;
    solved_dmin = both ? (xa * am - xm * aa) / determinant : dmin;
  }
};

template <typename Q, int High>
void quantize_super_affine(const float* x, const float* importance, typename Q::Block& b) {
  using Whole = AffineBlock<Q, High>;
  const Parts<Q> block(x, importance);
  Affine wanted[Whole::parts];
  float scale = 0.0f, min = 0.0f;
  for (int p = 0; p < Whole::parts; ++p) {
    wanted[p] = fit_affine(block.part[p], Whole::top, false);
    for (int lane = 0; lane < kLanes; ++lane) {
      scale = std::fmax(scale, wanted[p].scale[lane]);
      min = std::fmax(min, wanted[p].min[lane]);
    }
  }
  const float d = to_float(finite_half(scale / High)), dmin = to_float(finite_half(min / High));
  V n[Whole::parts], m[Whole::parts];
  for (int p = 0; p < Whole::parts; ++p) {
    n[p] = round(clamp(wanted[p].scale * inverse(splat(d)), 0.0f, High));
    m[p] = round(clamp(wanted[p].min * inverse(splat(dmin)), 0.0f, High));
  }
  Whole best(block, d, dmin, n, m);
  for (int i = 0; i < kRounds; ++i) {
    const float next_d = to_float(finite_half(best.solved_d)),
                next_dmin = to_float(finite_half(best.solved_dmin));
    if (next_d < 0.0f || next_dmin < 0.0f) break;
    const Whole next(block, next_d, next_dmin, best.n, best.m);
    if (!(next.left < best.left)) break;
    best = next;
  }
  quant::SuperScales s{finite_half(best.d), finite_half(best.dmin), {}, {}};
  uint8_t code[Q::block];
  for (int g = 0; g < Q::block / Q::group; ++g) {
    const float scale_step = best.n[g / kLanes][g % kLanes], min_step = best.m[g / kLanes][g % kLanes];
    s.scale[g] = static_cast<int8_t>(scale_step);
    s.min[g] = static_cast<uint8_t>(min_step);
    write_codes(x + g * Q::group, Q::group, best.d * scale_step, best.dmin * min_step, Whole::top,
                code + g * Q::group);
  }
  put_scales(s, b);
  put_codes(code, b);
}

}  // namespace pyllm::quantize::PYLLM_ISA
