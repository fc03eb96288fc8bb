// Quantized matmul, one tile at a time: one or two panels of 16 weight rows times 1 to 8 activation columns.
// For each output the order of operations is fixed, whatever the tile: for every step of 32 features
//     total = sum over its groups (dot * scale - sum * min);  acc += total * x.scale
// where dot and sum are exact integers: of codes times activations, and of activations.
#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels/simd.h"
#include "quant/types.h"

namespace pyllm::cpu::PYLLM_ISA {

namespace {

using quant::Scales;

// Quads kFirst to kFirst + 3 of a step, as values; kFirst is 0 or 4.
template <Layout L, int kFirst>
inline void unpack(const uint8_t* p, const uint8_t* table, u8x64* code) {
  constexpr int bits_ = L.code_bits;
  static_assert(bits_ == 2 || bits_ == 3 || bits_ == 4 || bits_ == 5 || bits_ == 6 || bits_ == 8);
  if constexpr (bits_ == 8) {
    for (int q = 0; q < 4; ++q) code[q] = load_bytes(p + 64 * (kFirst + q));
  }
  if constexpr (bits_ >= 4 && bits_ < 8) {
    for (int q = 0; q < 4; ++q) code[q] = bits<kFirst, 15>(load_bytes(p + 64 * q));  // low or high half
    p += 256;
  }
  if constexpr (bits_ == 2 || bits_ == 3 || bits_ == 6) {
    constexpr int up = bits_ == 6 ? 4 : 0;
    const u8x64 four = load_bytes(p + 16 * kFirst);
    const u8x64 part[4] = {bits<0, 3, up>(four), bits<2, 3, up>(four), bits<4, 3, up>(four),
                           bits<6, 3, up>(four)};
    for (int q = 0; q < 4; ++q) code[q] = bits_ == 6 ? either(code[q], part[q]) : part[q];
    p += 128;
  }
  if constexpr (bits_ == 3 || bits_ == 5) {
    constexpr int up = bits_ - 1;
    const u8x64 all = load_bytes(p);
    code[0] = either(code[0], bits<kFirst, 1, up>(all));
    code[1] = either(code[1], bits<kFirst + 1, 1, up>(all));
    code[2] = either(code[2], bits<kFirst + 2, 1, up>(all));
    code[3] = either(code[3], bits<kFirst + 3, 1, up>(all));
  }
  if constexpr (L.has_table)
    for (int q = 0; q < 4; ++q) code[q] = lookup(code[q], table);
}

// Scales (and mins) of the 16 rows, group by group.
template <Layout L>
struct ScaleReader {
  const uint8_t* p = nullptr;
  // Of the last 256 columns; in memory, as the accumulators have the registers.
  alignas(64) float d[16] = {}, dmin[16] = {};

  // For the groups of step s; steps come in order.
  inline void read(int64_t s, f32x16* scale, f32x16* min) {
    constexpr int size = L.scales == Scales::Super ? 1 : L.scales == Scales::Half ? 2 : 4;
    if constexpr (L.scales == Scales::Super) {
      if (s % 8 == 0) {
        store(d, half());
        if constexpr (L.has_min) store(dmin, half());
      }
    }
    for (int g = 0; g < L.groups_per_step(); ++g) {
      scale[g] = L.scales == Scales::Super  ? mul(load(d), load_i8(reinterpret_cast<const int8_t*>(p)))
                 : L.scales == Scales::Half ? load_half(reinterpret_cast<const uint16_t*>(p))
                                            : load(reinterpret_cast<const float*>(p));
      p += 16 * size;
      if constexpr (L.has_min) {
        min[g] = L.scales == Scales::Super  ? mul(load(dmin), load_u8(p))
                 : L.scales == Scales::Half ? load_half(reinterpret_cast<const uint16_t*>(p))
                                            : load(reinterpret_cast<const float*>(p));
        p += 16 * size;
      }
    }
  }
  inline f32x16 half() {
    const f32x16 v = load_half(reinterpret_cast<const uint16_t*>(p));
    p += 32;
    return v;
  }
};

// A dot product while it grows.
template <Layout L>
using DotSum = decltype(dot_start<L.value_bits(), L.zero>(nullptr));

constexpr int64_t kPrefetch = 2048;  // bytes ahead

// P panels times N columns. The codes of a step pass through the registers in turns of kQuads quads; between
// two turns the unfinished sums wait in memory: integers within a group, floats between groups.
template <Layout L, int N, int P>
void tile(const uint8_t* panel, int64_t columns, const uint8_t* table, const ActivationTile& x,
          const OutputTile& out) {
  constexpr int groups = L.groups_per_step();
  constexpr int kQuads = groups == 2 ? 4 : code_quads(N);
  constexpr int turns = 8 / kQuads, group_turns = turns / groups;
  const int64_t panel_bytes = L.panel_bytes(columns);
  const uint8_t* codes = panel + L.scale_bytes(columns);
  const int8_t* q = x.q;
  const int32_t* init = x.init;
  const float* sum = x.sum;
  ScaleReader<L> scales[P];
  for (int p = 0; p < P; ++p) scales[p].p = panel + p * panel_bytes;
  f32x16 acc[N][P];
  for (int c = 0; c < N; ++c)
    for (int p = 0; p < P; ++p) acc[c][p] = zero();
  DotSum<L> dots[N][P];
  alignas(64) float totals[N][P][16];

  for (int64_t s = 0; s < columns / kStep; ++s) {
    f32x16 scale[P][groups], min[P][groups];
    for (int p = 0; p < P; ++p) scales[p].read(s, scale[p], min[p]);
    const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
      constexpr int g = kTurn / group_turns;
      constexpr bool starts = kTurn % group_turns == 0, ends = kTurn % group_turns == group_turns - 1;
      u8x64 code[P][8];
      for (int p = 0; p < P; ++p) {
        const uint8_t* at = codes + p * panel_bytes;
        // The hardware's prefetchers stop at page borders; few columns leave them no time to catch up.
        if constexpr (kTurn == 0)
          for (int64_t i = 0; i < L.step_bytes(); i += 64) __builtin_prefetch(at + kPrefetch + i);
        unpack<L, kTurn * kQuads>(at, table, code[p]);
        if constexpr (kQuads == 8) unpack<L, 4>(at, table, code[p] + 4);
      }
      PYLLM_UNROLL
      for (int c = 0; c < N; ++c) {
        DotSum<L> d[P];
        for (int p = 0; p < P; ++p)
          d[p] = starts ? dot_start<L.value_bits(), L.zero>(init + g * N + c) : dots[c][p];
        dot<kQuads, L.value_bits(), L.zero>(d, code, q + c * kStep + kTurn * kQuads * 4);
        for (int p = 0; p < P; ++p) {
          if constexpr (!ends) {
            dots[c][p] = d[p];
          } else {
            const f32x16 sums = to_float(dot_end<L.value_bits(), L.zero>(d[p], init + g * N + c));
            f32x16 total = g == 0 ? mul(sums, scale[p][g]) : fma(sums, scale[p][g], load(totals[c][p]));
            if constexpr (L.has_min) total = fnma(min[p][g], set(sum[g * N + c]), total);
            if constexpr (g == groups - 1)
              acc[c][p] = fma(total, set(x.scale[s * N + c]), acc[c][p]);
            else
              store(totals[c][p], total);
          }
        }
      }
    };
    turn.template operator()<0>();
    if constexpr (turns > 1) turn.template operator()<1>();
    codes += L.step_bytes();
    q += N * kStep;
    init += groups * N;
    sum += groups * N;
  }
  for (int c = 0; c < N; ++c)
    for (int p = 0; p < P; ++p) {
      const int rows = out.rows - p * kPanelRows < kPanelRows ? out.rows - p * kPanelRows : kPanelRows;
      float* to = out.data + c * out.stride + p * kPanelRows;
      if (out.add) acc[c][p] = add(load_partial(to, rows), acc[c][p]);
      store_partial(to, acc[c][p], rows);
    }
}

// Two panels where the registers hold only one at a time.
template <Layout L, int N>
void pair(const uint8_t* panel, int64_t columns, const uint8_t* table, const ActivationTile& x,
          const OutputTile& out) {
  if constexpr (kTilePanels == 2) {
    tile<L, N, 2>(panel, columns, table, x, out);
  } else {
    tile<L, N, 1>(panel, columns, table, x, out);
    const OutputTile second = {out.data + kPanelRows, out.stride, out.rows - kPanelRows, out.add};
    tile<L, N, 1>(panel + L.panel_bytes(columns), columns, table, x, second);
  }
}

template <Layout L>
constexpr MatmulKernels kTiles = {{{tile<L, 1, 1>, tile<L, 2, 1>, tile<L, 4, 1>, tile<L, 8, 1>},
                                   {pair<L, 1>, pair<L, 2>, pair<L, 4>, pair<L, 8>}}};

}  // namespace

const MatmulKernels* matmul_kernels(const Layout& layout) {
#define PYLLM_X(Q) \
  if (layout == layout_of<quant::Q>()) return &kTiles<layout_of<quant::Q>()>;
  PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
  return nullptr;
}

}  // namespace pyllm::cpu::PYLLM_ISA
