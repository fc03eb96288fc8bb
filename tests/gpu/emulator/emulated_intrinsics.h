// Host twins of cpp/backend/cuda/intrinsics.h: a warp's lanes bring their parts together and each computes its
// own results, straight from the layout that the PTX manual gives.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "cuda_runtime.h"

namespace pyllm::cuda {

namespace emulated {

struct Fragments {
  uint32_t a[4], b[2];
};

// Byte i of a word list.
inline uint32_t byte(const uint32_t* words, int i) { return words[i / 4] >> 8 * (i % 4) & 255; }
inline uint16_t half_bits(const uint32_t* words, int i) {
  return static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2));
}

}  // namespace emulated

// c[row g and g + 8][columns 2 t and 2 t + 1] += the sum over features, which lie with lanes (row, t'),
// (column, t').
template <typename Element, typename Sum>
void emulated_mma(Sum (&c)[4], const emulated::Fragments& mine, const char* what, Element element) {
  const emulator::Exchange& all = emulator::exchange(&mine, what);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int other = 0; other < 4; ++other) {
      const auto* a = static_cast<const emulated::Fragments*>(all.of[row % 8 * 4 + other]);
      const auto* b = static_cast<const emulated::Fragments*>(all.of[column * 4 + other]);
      c[i] = element(c[i], *a, *b, row / 8);
    }
  }
  emulator::exchange(nullptr, "mma ends");
}

inline void mma_u8s8_32(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const emulated::Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulated_mma(c, mine, "mma_u8s8_32",
               [](int sum, const emulated::Fragments& x, const emulated::Fragments& y, int upper) {
                 for (int i = 0; i < 8; ++i)
                   sum += static_cast<int>(emulated::byte(&x.a[i / 4 * 2 + upper], i % 4)) *
                          static_cast<int8_t>(emulated::byte(y.b, i));
                 return sum;
               });
}
inline void mma_u8s8_16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  const emulated::Fragments mine = {{a0, a1, 0, 0}, {b, 0}};
  emulated_mma(c, mine, "mma_u8s8_16",
               [](int sum, const emulated::Fragments& x, const emulated::Fragments& y, int upper) {
                 for (int i = 0; i < 4; ++i)
                   sum += static_cast<int>(emulated::byte(&x.a[upper], i)) *
                          static_cast<int8_t>(emulated::byte(y.b, i));
                 return sum;
               });
}
inline void mma_half_16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const emulated::Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulated_mma(c, mine, "mma_half_16",
               [](float sum, const emulated::Fragments& x, const emulated::Fragments& y, int upper) {
                 for (int i = 0; i < 4; ++i)
                   sum += to_float(half{emulated::half_bits(&x.a[i / 2 * 2 + upper], i % 2)}) *
                          to_float(half{emulated::half_bits(y.b, i)});
                 return sum;
               });
}

inline uint32_t pack_halves(float low, float high) {
  return to_half(low).bits | static_cast<uint32_t>(to_half(high).bits) << 16;
}
inline float half_to_float(uint16_t bits) { return to_float(half{bits}); }
template <typename T>
T load_once(const T* p) {
  return *p;
}
inline void after_previous() {}
inline float exp2_fast(float x) { return std::exp2(x); }
template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared());
}

}  // namespace pyllm::cuda
