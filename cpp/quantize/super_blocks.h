// Types whose scales and minima are themselves small integers times a half of a block of 256.
//
// Every group is fitted on its own first. Then the integers: those nearest to what the groups want, their
// neighbours tried one by one, and the block's halfs solved for again, until that changes nothing.
#pragma once

#include <algorithm>

#include "quantize/blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

constexpr int kRounds = 2;  // of integers, then halfs

template <typename Q>
struct Block {
  static constexpr int groups = Q::block / Q::group;
  using G = Group<Q::group>;
  const float *x, *importance;
  G group(int g) const { return G(x + g * Q::group, importance + g * Q::group); }
};

// scale = d * integer in [Low, High].
template <typename Q, int Low, int High>
struct ScaledBlock : Block<Q> {
  using L = Levels<Q>;
  static constexpr int groups = Block<Q>::groups;

  float total(const quant::SuperScales& s) const {
    float e = 0.0f;
    for (int g = 0; g < groups; ++g)
      e += error<L>(this->group(g), to_float(s.d) * static_cast<float>(s.scale[g]));
    return e;
  }
  void choose_integers(quant::SuperScales& s) const {
    const float d = to_float(s.d);
    for (int g = 0; g < groups; ++g) {
      const auto group = this->group(g);
      const int middle = s.scale[g];
      float least = error<L>(group, d * static_cast<float>(middle));
      for (const int n : {middle - 1, middle + 1}) {
        if (n < Low || n > High) continue;
        const float e = error<L>(group, d * static_cast<float>(n));
        if (!(e < least)) continue;
        least = e;
        s.scale[g] = static_cast<int8_t>(n);
      }
    }
  }
  half solve(const quant::SuperScales& s) const {
    float xl = 0.0f, ll = 0.0f;
    for (int g = 0; g < groups; ++g) {
      const float n = s.scale[g];
      const Fit found = fit<L>(this->group(g), inverse(to_float(s.d) * n));
      xl += found.xl * n;
      ll += found.ll * n * n;
    }
    return ll > 0.0f ? finite_half(xl / ll) : s.d;
  }
  quant::SuperScales fit_from(const float* wanted, half d) const {
    quant::SuperScales s{d, {0}, {}, {}};
    const float inv = inverse(to_float(d));
    for (int g = 0; g < groups; ++g)
      s.scale[g] = static_cast<int8_t>(std::clamp(std::nearbyint(wanted[g] * inv), float{Low}, float{High}));
    for (int i = 0; i < kRounds; ++i) {
      choose_integers(s);
      quant::SuperScales next = s;
      next.d = solve(s);
      if (!(total(next) < total(s))) break;
      s = next;
    }
    return s;
  }
};

template <typename Q, int Low, int High>
void quantize_super_scaled(const float* x, const float* importance, typename Q::Block& b) {
  using Whole = ScaledBlock<Q, Low, High>;
  const Whole block{{x, importance}};
  float wanted[Whole::groups], largest = 0.0f;
  for (int g = 0; g < Whole::groups; ++g) {
    wanted[g] = fit_scale<Levels<Q>>(block.group(g));
    if (std::fabs(wanted[g]) > std::fabs(largest)) largest = wanted[g];
  }
  // The largest scale takes the integer with the most magnitude, or the one at the other end.
  quant::SuperScales best = block.fit_from(wanted, finite_half(largest / Low));
  if (const auto other = block.fit_from(wanted, finite_half(largest / High));
      block.total(other) < block.total(best))
    best = other;
  put_scales(best, b);
  uint8_t code[Q::block];
  for (int g = 0; g < Whole::groups; ++g)
    write_codes<Q>(block.group(g), to_float(best.d) * static_cast<float>(best.scale[g]), code + g * Q::group);
  put_codes(code, b);
}

// scale = d * integer and min = dmin * integer, both in [0, High].
template <typename Q, int High>
struct AffineBlock : Block<Q> {
  static constexpr int groups = Block<Q>::groups;
  static constexpr float top = (1 << Q::code_bits) - 1;

  static Affine of(const quant::SuperScales& s, int scale, int min) {
    return {to_float(s.d) * static_cast<float>(scale), to_float(s.dmin) * static_cast<float>(min)};
  }
  float total(const quant::SuperScales& s) const {
    float e = 0.0f;
    for (int g = 0; g < groups; ++g) e += error(this->group(g), of(s, s.scale[g], s.min[g]), top);
    return e;
  }
  void choose_integers(quant::SuperScales& s) const {
    for (int g = 0; g < groups; ++g) {
      const auto group = this->group(g);
      const int scale = s.scale[g], min = s.min[g];
      float least = INFINITY;
      for (int n = std::max(scale - 1, 0); n <= std::min(scale + 1, High); ++n)
        for (int m = std::max(min - 1, 0); m <= std::min(min + 1, High); ++m) {
          const float e = error(group, of(s, n, m), top);
          if (!(e < least)) continue;
          least = e;
          s.scale[g] = static_cast<int8_t>(n);
          s.min[g] = static_cast<uint8_t>(m);
        }
    }
  }
  // Least squares for both halfs at once, the codes given.
  void solve(quant::SuperScales& s) const {
    float aa = 0.0f, am = 0.0f, mm = 0.0f, xa = 0.0f, xm = 0.0f;  // a: integer scale * code, m: integer min
    for (int g = 0; g < groups; ++g) {
      const auto group = this->group(g);
      const Affine a = of(s, s.scale[g], s.min[g]);
      const V inv = splat(inverse(a.scale)), shift = splat(a.min);
      V w = splat(0.0f), wq = w, wqq = w, wx = w, wxq = w;
      for (int i = 0; i < group.vectors; ++i) {
        const V q = round(clamp((group.x[i] + shift) * inv, 0.0f, top)), weighted = group.weight[i] * q;
        w += group.weight[i];
        wq += weighted;
        wqq += weighted * q;
        wx += group.weight[i] * group.x[i];
        wxq += weighted * group.x[i];
      }
      const float n = s.scale[g], m = s.min[g];
      aa += n * n * sum(wqq);
      am += n * m * sum(wq);
      mm += m * m * sum(w);
      xa += n * sum(wxq);
      xm += m * sum(wx);
    }
    const float determinant = aa * mm - am * am;
    if (determinant > 1e-6f * aa * mm) {
      s.d = finite_half((xa * mm - xm * am) / determinant);
      s.dmin = finite_half((xa * am - xm * aa) / determinant);
    } else if (aa > 0.0f) {
      s.d = finite_half((xa + to_float(s.dmin) * am) / aa);
    }
  }
};

template <typename Q, int High>
void quantize_super_affine(const float* x, const float* importance, typename Q::Block& b) {
  using Whole = AffineBlock<Q, High>;
  const Whole block{{x, importance}};
  Affine wanted[Whole::groups];
  float scale = 0.0f, min = 0.0f;
  for (int g = 0; g < Whole::groups; ++g) {
    wanted[g] = fit_affine(block.group(g), static_cast<int>(Whole::top), false);
    scale = std::fmax(scale, wanted[g].scale);
    min = std::fmax(min, wanted[g].min);
  }
  quant::SuperScales s{finite_half(scale / High), finite_half(min / High), {}, {}};
  const float inv = inverse(to_float(s.d)), inv_min = inverse(to_float(s.dmin));
  for (int g = 0; g < Whole::groups; ++g) {
    s.scale[g] = static_cast<int8_t>(std::clamp(std::nearbyint(wanted[g].scale * inv), 0.0f, float{High}));
    s.min[g] = static_cast<uint8_t>(std::clamp(std::nearbyint(wanted[g].min * inv_min), 0.0f, float{High}));
  }
  for (int i = 0; i < kRounds; ++i) {
    block.choose_integers(s);
    quant::SuperScales next = s;
    block.solve(next);
    if (to_float(next.d) < 0.0f || to_float(next.dmin) < 0.0f || !(block.total(next) < block.total(s))) break;
    s = next;
  }
  put_scales(s, b);
  uint8_t code[Q::block];
  for (int g = 0; g < Whole::groups; ++g)
    write_codes(block.group(g), Whole::of(s, s.scale[g], s.min[g]), Whole::top, code + g * Q::group);
  put_codes(code, b);
}

}  // namespace pyllm::quantize::PYLLM_ISA
