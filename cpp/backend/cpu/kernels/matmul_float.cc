// Float weights (F32, F16, BF16) times float activations: per output a fused multiply-add over the features in
// order.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

struct AsF32 {
  using Element = float;
  static f32x16 get(const float* p) { return load(p); }
};
struct AsF16 {
  using Element = uint16_t;
  static f32x16 get(const uint16_t* p) { return load_half(p); }
};
struct AsBF16 {
  using Element = uint16_t;
  static f32x16 get(const uint16_t* p) { return load_bfloat16(p); }
};

// N columns, from x on, of the kStride that lie side by side.
template <typename As, int N, int P, int kStride = N>
void tile(const void* panel, int64_t columns, const float* x, const OutputTile& out) {
  if constexpr (N > kFloatColumns) {
    tile<As, N / 2, P, kStride>(panel, columns, x, out);
    return tile<As, N / 2, P, kStride>(panel, columns, x + N / 2,
                                       {out.data + N / 2 * out.stride, out.stride, out.rows, out.add});
  }
  const auto* w = static_cast<const typename As::Element*>(panel);
  const int64_t panel_size = columns * kPanelRows;
  f32x16 acc[N][P];
  for (int c = 0; c < N; ++c)
    for (int p = 0; p < P; ++p) acc[c][p] = zero();
  for (int64_t k = 0; k < columns; ++k) {
    f32x16 weight[P];
    for (int p = 0; p < P; ++p) weight[p] = As::get(w + p * panel_size + k * kPanelRows);
    PYLLM_UNROLL
    for (int c = 0; c < N; ++c) {
      f32x16 activation = set(x[k * kStride + c]);
      if constexpr (P > 1) in_register(activation);
      for (int p = 0; p < P; ++p) acc[c][p] = fma(weight[p], activation, acc[c][p]);
    }
  }
  for (int c = 0; c < N; ++c)
    for (int p = 0; p < P; ++p) {
      const int rows = out.rows - p * kPanelRows < kPanelRows ? out.rows - p * kPanelRows : kPanelRows;
      float* to = out.data + c * out.stride + p * kPanelRows;
      if (out.add) acc[c][p] = add(load_partial(to, rows), acc[c][p]);
      store_partial(to, acc[c][p], rows);
    }
}

template <typename As, int N>
void pair(const void* panel, int64_t columns, const float* x, const OutputTile& out) {
  if constexpr (kTilePanels == 2) {
    tile<As, N, 2>(panel, columns, x, out);
  } else {
    const auto* second = static_cast<const typename As::Element*>(panel) + columns * kPanelRows;
    tile<As, N, 1>(panel, columns, x, out);
    tile<As, N, 1>(second, columns, x, {out.data + kPanelRows, out.stride, out.rows - kPanelRows, out.add});
  }
}

template <typename As>
constexpr FloatMatmulKernels kTiles = {{{tile<As, 1, 1>, tile<As, 2, 1>, tile<As, 4, 1>, tile<As, 8, 1>},
                                        {pair<As, 1>, pair<As, 2>, pair<As, 4>, pair<As, 8>}}};

}  // namespace

const FloatMatmulKernels* float_matmul_kernels(Type type) {
  if (type == Type::F32) return &kTiles<AsF32>;
  if (type == Type::F16) return &kTiles<AsF16>;
  if (type == Type::BF16) return &kTiles<AsBF16>;
  return nullptr;
}

}  // namespace pyllm::cpu::PYLLM_ISA
