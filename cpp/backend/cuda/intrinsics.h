// What the kernels use of the machine beyond C++: tensor core products, conversions and cached loads, each a
// function. Tests compile the same kernels for the host, with twins of these that compute the obvious way.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef PYLLM_EMULATED
#include <emulated_intrinsics.h>
#else

namespace pyllm::cuda {

// A tile of A is 16 rows, of B 8 columns. With g = lane / 4 and t = lane % 4 a lane holds
//   c[0], c[1]: row g, columns 2 t and 2 t + 1;  c[2], c[3]: row g + 8.

// c += A B for 32 features of unsigned A and signed B: a[0], a[1] the features 4 t .. 4 t + 3 of rows g and
// g + 8, a[2], a[3] those from 16 + 4 t on; b[0], b[1] the same features of column g.
__device__ __forceinline__ void mma_u8s8_32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same for 16 features: a0, a1 and b as a[0], a[1] and b0 above.
__device__ __forceinline__ void mma_u8s8_16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// c += A B for 16 features of halves: a[0], a[1] the features 2 t and 2 t + 1 of rows g and g + 8, a[2], a[3]
// those from 8 + 2 t on; b0, b1 the same features of column g.
__device__ __forceinline__ void mma_half_16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two halves in a word, `low` in the low one; rounded to nearest even.
__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// Weights pass once: they should not push activations out of the cache.
__device__ __forceinline__ uint4 load_once(const uint4* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_once(const uint2* p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ uint32_t load_once(const uint32_t* p) {
  uint32_t v;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}

// 2^x to about 2 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Every kernel calls it before it touches what another one writes: it may have been started while the kernel
// ahead still ran (Stream, programmatic), and lets the next one be.
__device__ __forceinline__ void after_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

extern __shared__ uint4 pyllm_shared[];
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  return reinterpret_cast<T*>(pyllm_shared);
}

}  // namespace pyllm::cuda

#endif
