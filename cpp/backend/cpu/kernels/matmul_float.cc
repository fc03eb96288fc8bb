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

template <typename As, int N>
void tile(const void* panel, int64_t columns, const float* x, const OutputTile& out) {
  const auto* w = static_cast<const typename As::Element*>(panel);
  f32x16 acc[N];
  for (int c = 0; c < N; ++c) acc[c] = zero();
  for (int64_t k = 0; k < columns; ++k) {
    const f32x16 weight = As::get(w + k * kPanelRows);
    PYLLM_UNROLL
    for (int c = 0; c < N; ++c) acc[c] = fma(weight, set(x[k * N + c]), acc[c]);
  }
  for (int c = 0; c < N; ++c) {
    float* to = out.data + c * out.stride;
    if (out.add) acc[c] = add(load_partial(to, out.rows), acc[c]);
    store_partial(to, acc[c], out.rows);
  }
}

template <typename As>
constexpr FloatMatmulKernels kTiles = {{tile<As, 1>, tile<As, 2>, tile<As, 4>, tile<As, 8>}};

}  // namespace

const FloatMatmulKernels* float_matmul_kernels(Type type) {
  if (type == Type::F32) return &kTiles<AsF32>;
  if (type == Type::F16) return &kTiles<AsF16>;
  if (type == Type::BF16) return &kTiles<AsBF16>;
  return nullptr;
}

}  // namespace pyllm::cpu::PYLLM_ISA
