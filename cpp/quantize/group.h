// The weights that share a scale, eight such groups side by side: one in each lane of a vector, so that all of
// them are fitted at once and no sum runs across lanes. Compiled once per instruction set; the same operations
// in the same order everywhere, so that a file does not depend on the machine that wrote it.
#pragma once

#include <cmath>
#include <cstring>

#include "core/half.h"

#ifndef PYLLM_ISA
#error "PYLLM_ISA names the namespace of this build"
#endif

namespace pyllm::quantize::PYLLM_ISA {

using V = float __attribute__((vector_size(32)));
using I = int __attribute__((vector_size(32)));  // also the result of a comparison: a mask
constexpr int kLanes = 8;

inline V splat(float x) { return V{x, x, x, x, x, x, x, x}; }
inline float sum(V v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
inline V select(I where, V a, V b) { return where ? a : b; }
inline V min(V a, V b) { return select(a < b, a, b); }
inline V max(V a, V b) { return select(a > b, a, b); }
inline V abs(V v) { return max(v, -v); }
inline V clamp(V v, float low, float high) { return min(max(v, splat(low)), splat(high)); }
// To the nearest integer, ties to even, for magnitudes below 2^22: there a float near 1.5 * 2^23 has no
// fraction.
inline V round(V v) {
  const V big = splat(12582912.0f);
  return (v + big) - big;
}
inline V inverse(V step) { return select(abs(step) > splat(1e-30f), splat(1.0f) / step, splat(0.0f)); }

template <int N>
struct Groups {
  V x[N], weight[N];  // weight: how much an error counts

  Groups() = default;
  // `count` groups, one after the other; the lanes of those that are not there hold zeros.
  Groups(const float* values, const float* importance, int count = kLanes) {
    if (count < kLanes) memset(this, 0, sizeof(*this));
    for (int lane = 0; lane < count; ++lane)
      for (int i = 0; i < N; ++i) {
        x[i][lane] = values[lane * N + i];
        weight[i][lane] = importance[lane * N + i];
      }
  }
};

// A finite half, whatever x is: a scale past the largest one is cut to it.
inline half finite_half(float x) {
  const half h = to_half(x);
  return (h.bits & 0x7fff) >= 0x7c00 ? half{static_cast<uint16_t>((h.bits & 0x8000) | 0x7bff)} : h;
}
inline V finite_halfs(V v) {
  for (int lane = 0; lane < kLanes; ++lane) v[lane] = to_float(finite_half(v[lane]));
  return v;
}

}  // namespace pyllm::quantize::PYLLM_ISA
