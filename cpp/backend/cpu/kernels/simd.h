// The SIMD wrapper of the instruction set this file is compiled for. Nothing here or in the kernels may use
// standard templates: the linker could merge this copy of a shared inline function into the baseline.
#pragma once

#if defined(PYLLM_ISA_AVX512)
#include "backend/cpu/simd/avx512.h"
#elif defined(PYLLM_ISA_AVX2) || defined(PYLLM_ISA_AVXVNNI)
#include "backend/cpu/simd/avx2.h"
#elif defined(PYLLM_ISA_NEON)
#include "backend/cpu/simd/neon.h"
#else
#include "backend/cpu/simd/scalar.h"
#endif

// Before a loop over the columns or queries of a tile: their accumulators must become registers.
#if defined(PYLLM_ISA_SCALAR)
#define PYLLM_UNROLL
#else
#define PYLLM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace pyllm::cpu::PYLLM_ISA {

// e^x to about 1 ulp: 2^n times a polynomial on |r| <= ln(2)/2. Outside -87..88 x counts as that border.
inline f32x16 exp(f32x16 x) {
  const f32x16 clamped = max(min(x, set(88.0f)), set(-87.0f));
  const f32x16 n = round(mul(clamped, set(1.44269504f)));
  f32x16 r = fnma(n, set(0.693359375f), clamped);  // ln 2 in two parts, the first exact in n * part
  r = fnma(n, set(-2.12194440e-4f), r);
  f32x16 p = set(1.9875691500e-4f);  // Cephes' expf coefficients
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set(1.0f));
  return mul(p, pow2(n));
}

}  // namespace pyllm::cpu::PYLLM_ISA
