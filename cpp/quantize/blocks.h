// Types with a scale, and perhaps a minimum, of their own for every block.
#pragma once

#include "quantize/codes.h"
#include "quantize/fit.h"

namespace pyllm::quantize::PYLLM_ISA {

template <typename Q>
constexpr int lowest_code = -Q::zero;
template <typename Q>
constexpr int highest_code = (1 << Q::code_bits) - 1 - Q::zero;

template <typename Q>
struct LevelsOf {
  using type = Integers<lowest_code<Q>, highest_code<Q>>;
};
template <typename Q>
  requires quant::has_table<Q>
struct LevelsOf<Q> {
  using type = Table<Q>;
};
template <>
struct LevelsOf<quant::Q8_0> {
  using type = Integers<-127, 127>;  // -128 is left unused, as in every other writer
};
template <>
struct LevelsOf<quant::TQ1_0> {
  using type = Integers<-1, 1>;
};
template <>
struct LevelsOf<quant::TQ2_0> {
  using type = Integers<-1, 1>;
};
template <typename Q>
using Levels = typename LevelsOf<Q>::type;

// The code whose value, less the zero, is `level`.
template <typename Q>
uint8_t code_of(float level) {
  const int value = static_cast<int>(level) + Q::zero;
  if constexpr (quant::has_table<Q>) {
    for (int i = 0; i < 16; ++i)
      if (Q::table[i] == value) return static_cast<uint8_t>(i);
  }
  return static_cast<uint8_t>(value);
}

// The nearest codes of a group under its final scale.
template <typename Q, int N>
void write_codes(const Group<N>& group, float scale, uint8_t* code) {
  const V inv = splat(inverse(scale));
  for (int i = 0; i < group.vectors; ++i) {
    const V level = Levels<Q>::nearest(group.x[i] * inv);
    for (int lane = 0; lane < kLanes; ++lane) code[i * kLanes + lane] = code_of<Q>(level[lane]);
  }
}
template <int N>
void write_codes(const Group<N>& group, Affine a, float top, uint8_t* code) {
  const V inv = splat(inverse(a.scale)), m = splat(a.min);
  for (int i = 0; i < group.vectors; ++i) {
    const V q = round(clamp((group.x[i] + m) * inv, 0.0f, top));
    for (int lane = 0; lane < kLanes; ++lane) code[i * kLanes + lane] = static_cast<uint8_t>(q[lane]);
  }
}

// x = d * level.
template <typename Q>
void quantize_scaled(const float* x, const float* importance, typename Q::Block& b) {
  const Group<Q::block> group(x, importance);
  b.d = finite_half(fit_scale<Levels<Q>>(group));
  uint8_t code[Q::block];
  write_codes<Q>(group, to_float(b.d), code);
  put_codes(code, b);
}

// x = d * q + m.
template <typename Q>
void quantize_affine(const float* x, const float* importance, typename Q::Block& b) {
  constexpr float top = (1 << Q::code_bits) - 1;
  const Group<Q::block> group(x, importance);
  const Affine a = fit_affine(group, static_cast<int>(top), true);
  b.d = finite_half(a.scale);
  b.m = finite_half(-a.min);
  uint8_t code[Q::block];
  write_codes(group, Affine{to_float(b.d), -to_float(b.m)}, top, code);
  put_codes(code, b);
}

// x = a power of two times a level: the one that leaves the least error.
inline void quantize_power(const float* x, const float* importance, quant::BlockMXFP4& b) {
  using Q = quant::MXFP4;
  const Group<32> group(x, importance);
  const float largest = std::fabs(extreme(group));
  // Around the one that puts the largest weight just inside the levels.
  const int near = largest > 0.0f ? std::ilogb(largest / Levels<Q>::high) + 128 : 0;
  float least = INFINITY;
  for (int e = near - 1; e <= near + 2; ++e) {
    if (e < 0 || e > 254) continue;
    quant::BlockMXFP4 candidate{static_cast<uint8_t>(e), {}};
    const float found = error<Levels<Q>>(group, Q::scale_min(candidate, 0).scale);
    if (!(found < least)) continue;
    least = found;
    b.e = candidate.e;
  }
  uint8_t code[32];
  write_codes<Q>(group, Q::scale_min(b, 0).scale, code);
  put_codes(code, b);
}

}  // namespace pyllm::quantize::PYLLM_ISA
