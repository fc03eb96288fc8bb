// Types with a scale, and perhaps a minimum, of their own for every block.
#pragma once

#include <algorithm>

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

using Bytes = uint8_t __attribute__((vector_size(kLanes)));

// The nearest codes of the n weights of a group under its final scale.
template <typename Q>
void write_codes(const float* x, int n, float scale, uint8_t* code) {
  const V inv = inverse(splat(scale));
  for (int i = 0; i < n; i += kLanes) {
    V v;
    memcpy(&v, x + i, sizeof(v));
    if constexpr (quant::has_table<Q>) {
      const I place = Levels<Q>::place(v * inv);
      for (int lane = 0; lane < kLanes; ++lane) code[i + lane] = Levels<Q>::codes[place[lane]];
    } else {
      const V level = Levels<Q>::nearest(v * inv) + static_cast<float>(Q::zero);
      const Bytes bytes = __builtin_convertvector(__builtin_convertvector(level, I), Bytes);
      memcpy(code + i, &bytes, sizeof(bytes));
    }
  }
}
inline void write_codes(const float* x, int n, float scale, float min, float top, uint8_t* code) {
  const Affine a{splat(scale), splat(min)};
  const V inv = inverse(a.scale);
  for (int i = 0; i < n; i += kLanes) {
    V v;
    memcpy(&v, x + i, sizeof(v));
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(a.code(v, inv, top), I), Bytes);
    memcpy(code + i, &bytes, sizeof(bytes));
  }
}

// x = d * level. Eight blocks at most.
template <typename Q>
void quantize_scaled(const float* x, const float* importance, typename Q::Block* blocks, int count) {
  const V scale = fit_scale<Levels<Q>>(Groups<Q::block>(x, importance, count));
  for (int n = 0; n < count; ++n) {
    blocks[n].d = finite_half(scale[n]);
    uint8_t code[Q::block];
    write_codes<Q>(x + n * Q::block, Q::block, to_float(blocks[n].d), code);
    put_codes(code, blocks[n]);
  }
}

// x = d * q + m. Eight blocks at most.
template <typename Q>
void quantize_affine(const float* x, const float* importance, typename Q::Block* blocks, int count) {
  constexpr float top = (1 << Q::code_bits) - 1;
  const Affine a = fit_affine(Groups<Q::block>(x, importance, count), top, true);
  for (int n = 0; n < count; ++n) {
    blocks[n].d = finite_half(a.scale[n]);
    blocks[n].m = finite_half(-a.min[n]);
    uint8_t code[Q::block];
    write_codes(x + n * Q::block, Q::block, to_float(blocks[n].d), -to_float(blocks[n].m), top, code);
    put_codes(code, blocks[n]);
  }
}

// x = a power of two times a level: the one that leaves the least error. Eight blocks at most.
inline void quantize_power(const float* x, const float* importance, quant::BlockMXFP4* blocks, int count) {
  using Q = quant::MXFP4;
  const Groups<Q::block> groups(x, importance, count);
  const V largest = abs(extreme(groups));
  V least = splat(INFINITY);
  I best{};
  for (int step = -1; step <= 2; ++step) {
    I e{};
    V scale{};
    for (int n = 0; n < count; ++n) {
      // Around the one that puts the largest weight just inside the levels.
      const int near = largest[n] > 0.0f ? std::ilogb(largest[n] / Levels<Q>::high) + 128 : 0;
      e[n] = std::clamp(near + step, 0, 254);
      scale[n] = Q::scale_min({static_cast<uint8_t>(e[n]), {}}, 0).scale;
    }
    const V found = error<Levels<Q>>(groups, scale);
    best = found < least ? e : best;
    least = min(found, least);
  }
  for (int n = 0; n < count; ++n) {
    blocks[n].e = static_cast<uint8_t>(best[n]);
    uint8_t code[Q::block];
    write_codes<Q>(x + n * Q::block, Q::block, Q::scale_min(blocks[n], 0).scale, code);
    put_codes(code, blocks[n]);
  }
}

}  // namespace pyllm::quantize::PYLLM_ISA
