// The weights that share a scale, eight to a vector. Compiled once per instruction set; the same operations in
// the same order everywhere, so that a file does not depend on the machine that wrote it.
#pragma once

#include <cmath>
#include <cstring>

#include "core/half.h"

#ifndef PYLLM_ISA
#error "PYLLM_ISA names the namespace of this build"
#endif

namespace pyllm::quantize::PYLLM_ISA {

using V = float __attribute__((vector_size(32)));
constexpr int kLanes = 8;

inline V splat(float x) { return V{x, x, x, x, x, x, x, x}; }
inline float sum(V v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
inline V clamp(V v, float low, float high) {
  const V a = splat(low), b = splat(high);
  v = v < a ? a : v;
  return v > b ? b : v;
}
// To the nearest integer, ties to even, for magnitudes below 2^22: there a float near 1.5 * 2^23 has no
// fraction.
inline V round(V v) {
  const V big = splat(12582912.0f);
  return (v + big) - big;
}

// N weights and how much an error in each counts.
template <int N>
struct Group {
  static constexpr int vectors = N / kLanes;
  V x[vectors], weight[vectors];

  Group(const float* values, const float* importance) {
    memcpy(x, values, sizeof(x));
    memcpy(weight, importance, sizeof(weight));
  }
};

// A finite half, whatever x is: a scale past the largest one is cut to it.
inline half finite_half(float x) {
  const half h = to_half(x);
  return (h.bits & 0x7fff) >= 0x7c00 ? half{static_cast<uint16_t>((h.bits & 0x8000) | 0x7bff)} : h;
}

inline float inverse(float step) { return std::fabs(step) > 1e-30f ? 1.0f / step : 0.0f; }

}  // namespace pyllm::quantize::PYLLM_ISA
