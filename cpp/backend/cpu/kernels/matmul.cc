// Quantized matmul, one tile at a time: a panel of 16 weight rows times 1 to 16 activation columns. For each
// output the order of operations is fixed, whatever the tile: over groups, acc += dot * (scale * x.scale), then
// acc -= min * x.sum; dots are exact integers.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"
#include "quant/types.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

using quant::Scales;

// The eight quads of one step, as values.
template <Layout L>
inline void unpack(const uint8_t* p, const uint8_t* table, u8x64* code) {
  constexpr int bits_ = L.code_bits;
  static_assert(bits_ == 2 || bits_ == 3 || bits_ == 4 || bits_ == 5 || bits_ == 6 || bits_ == 8);
  if constexpr (bits_ == 8) {
    for (int q = 0; q < 8; ++q) code[q] = load_bytes(p + 64 * q);
    return;
  }
  if constexpr (bits_ >= 4) {
    for (int q = 0; q < 4; ++q) {
      const u8x64 both = load_bytes(p + 64 * q);
      code[q] = bits<0, 15>(both);
      code[q + 4] = bits<4, 15>(both);
    }
    p += 256;
  }
  if constexpr (bits_ == 2 || bits_ == 3 || bits_ == 6) {
    constexpr int up = bits_ == 6 ? 4 : 0;
    for (int h = 0; h < 2; ++h) {
      const u8x64 four = load_bytes(p + 64 * h);
      u8x64* c = code + 4 * h;
      const u8x64 part[4] = {bits<0, 3, up>(four), bits<2, 3, up>(four), bits<4, 3, up>(four),
                             bits<6, 3, up>(four)};
      for (int q = 0; q < 4; ++q) c[q] = bits_ == 6 ? either(c[q], part[q]) : part[q];
    }
    p += 128;
  }
  if constexpr (bits_ == 3 || bits_ == 5) {
    constexpr int up = bits_ - 1;
    const u8x64 all = load_bytes(p);
    code[0] = either(code[0], bits<0, 1, up>(all));
    code[1] = either(code[1], bits<1, 1, up>(all));
    code[2] = either(code[2], bits<2, 1, up>(all));
    code[3] = either(code[3], bits<3, 1, up>(all));
    code[4] = either(code[4], bits<4, 1, up>(all));
    code[5] = either(code[5], bits<5, 1, up>(all));
    code[6] = either(code[6], bits<6, 1, up>(all));
    code[7] = either(code[7], bits<7, 1, up>(all));
  }
  if constexpr (L.has_table)
    for (int q = 0; q < 8; ++q) code[q] = lookup(code[q], table);
}

// Scale and min of the 16 rows, group by group.
template <Layout L>
struct ScaleReader {
  const uint8_t* p;
  f32x16 d = zero(), dmin = zero();

  // At the start of step s.
  inline void begin(int64_t s) {
    if constexpr (L.scales == Scales::Super) {
      if (s % 8 != 0) return;
      d = load_half(reinterpret_cast<const uint16_t*>(p));
      p += 32;
      if constexpr (L.has_min) {
        dmin = load_half(reinterpret_cast<const uint16_t*>(p));
        p += 32;
      }
    }
  }
  inline f32x16 part(bool is_min) {
    f32x16 r;
    if constexpr (L.scales == Scales::Super) {
      r = is_min ? mul(dmin, load_u8(p)) : mul(d, load_i8(reinterpret_cast<const int8_t*>(p)));
      p += 16;
    } else if constexpr (L.scales == Scales::Half) {
      r = load_half(reinterpret_cast<const uint16_t*>(p));
      p += 32;
    } else {
      r = load(reinterpret_cast<const float*>(p));
      p += 64;
    }
    return r;
  }
};

constexpr int64_t kPrefetch = 2048;  // bytes ahead

template <Layout L, int N>
void tile(const uint8_t* panel, int64_t columns, const uint8_t* table, const ActivationTile& x, float* out,
          int64_t stride, int rows) {
  constexpr int groups = L.groups_per_step(), quads = 8 / groups;
  ScaleReader<L> scales{panel};
  const uint8_t* codes = panel + L.scale_bytes(columns);
  const int8_t* q = x.q;
  const float* x_scale = x.scale;
  const int32_t* x_init = x.init;
  const float* x_sum = x.sum;
  f32x16 acc[N];
  for (int c = 0; c < N; ++c) acc[c] = zero();
  for (int64_t s = 0; s < columns / kStep; ++s) {
    // The prefetchers of the hardware stop at page borders; few columns leave them no time to catch up.
    for (int64_t i = 0; i < L.step_bytes(); i += 64) __builtin_prefetch(codes + kPrefetch + i);
    u8x64 code[8];
    unpack<L>(codes, table, code);
    scales.begin(s);
    for (int g = 0; g < groups; ++g) {
      const f32x16 scale = scales.part(false);
      const f32x16 min = L.has_min ? scales.part(true) : zero();
      PYLLM_UNROLL
      for (int c = 0; c < N; ++c) {
        const i32x16 d = dot<quads, L.value_bits(), L.zero>(code + g * quads, q + c * kStep + g * L.group,
                                                            x_init + 2 * c + g);
        acc[c] = fma(to_float(d), mul(scale, set(x_scale[c])), acc[c]);
        if constexpr (L.has_min) acc[c] = fnma(min, set(x_sum[2 * c + g]), acc[c]);
      }
    }
    codes += L.step_bytes();
    q += N * kStep;
    x_scale += N;
    x_init += 2 * N;
    x_sum += 2 * N;
  }
  for (int c = 0; c < N; ++c) {
    if (rows == kPanelRows)
      store(out + c * stride, acc[c]);
    else
      store_partial(out + c * stride, acc[c], rows);
  }
}

template <Layout L>
constexpr MatmulKernels kTiles = {{tile<L, 1>, tile<L, 2>, tile<L, 4>, tile<L, 8>, tile<L, 16>}};

}  // namespace

const MatmulKernels* matmul_kernels(const Layout& layout) {
#define PYLLM_X(Q) \
  if (layout == layout_of<quant::Q>()) return &kTiles<layout_of<quant::Q>()>;
  PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
  return nullptr;
}

}  // namespace pyllm::cpu::PYLLM_ISA
