// Products with packed weights: the activations are quantized once into tiles, then panels are dealt to the
// threads.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace pyllm::cpu {

namespace {

// Tiles of 16 columns, the rest as 8, 4, 2 and 1: the kernels' fixed widths.
struct Tile {
  int64_t first;  // column
  int columns;
  int kernel;  // index into MatmulKernels::tile
};

std::vector<Tile> tiles_of(int64_t columns) {
  std::vector<Tile> tiles;
  int64_t first = 0;
  for (int kernel = 4; kernel >= 0; --kernel)
    for (const int width = 1 << kernel; columns - first >= width; first += width)
      tiles.push_back({first, width, kernel});
  return tiles;
}

// Sums of the activations as one kind of factor wants them (ActivationTile::init and ::sum).
struct Sums {
  int zero;
  int group;
  bool has_min;
  int32_t* init;
  float* sum;
};

}  // namespace

void CpuBackend::matmul(std::span<const Factor> factors, Tensor x, Tensor out) {
  const int64_t mark = arena_.mark();
  bool any_quantized = false;
  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing == nullptr) matmul_float(factor, x, out.columns(column, w.rows));
    any_quantized |= w.packing != nullptr;
    column += w.rows;
  }
  if (any_quantized) precise_ ? matmul_precise(factors, x, out) : matmul_quantized(factors, x, out);
  column = 0;
  for (const Factor& factor : factors) {
    if (factor.bias != nullptr) add_bias(*factor.bias, out.columns(column, factor.weight->rows));
    column += factor.weight->rows;
  }
  arena_.release(mark);
}

void CpuBackend::add_bias(const Vector& bias, Tensor out) {
  for_rows(out.rows, out.cols, [&](int64_t r) { kernels_.add(out.row(r), bias.data, out.cols); });
}

// Every token goes through the product twice: as it is, and as what its quantization left over.
void CpuBackend::matmul_precise(std::span<const Factor> factors, Tensor x, Tensor out) {
  const int64_t n = x.rows, steps = x.cols / kStep;
  Tensor both = scratch(2 * n, x.cols), result = scratch(2 * n, out.cols);
  auto* q = arena_.take<int8_t>(n * x.cols);
  auto* scale = arena_.take<float>(n * steps);
  auto* sums = arena_.take<int32_t>(2 * n * steps);
  for_rows(n, 4 * x.cols, [&](int64_t r) {
    kernels_.quantize(x.row(r), x.cols, q + r * x.cols, kStep, scale + r * steps, 1, sums + 2 * r * steps);
    for (int64_t i = 0; i < x.cols; ++i) {
      both.row(r)[i] = x.row(r)[i];
      both.row(n + r)[i] = x.row(r)[i] - scale[r * steps + i / kStep] * static_cast<float>(q[r * x.cols + i]);
    }
  });
  matmul_quantized(factors, both, result);
  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing != nullptr)
      for_rows(n, w.rows, [&](int64_t r) {
        const float *whole = result.row(r) + column, *rest = result.row(n + r) + column;
        for (int64_t i = 0; i < w.rows; ++i) out.row(r)[column + i] = whole[i] + rest[i];
      });
    column += w.rows;
  }
}

void CpuBackend::matmul_quantized(std::span<const Factor> factors, Tensor x, Tensor out) {
  struct Part {
    const CpuMatrix* weight;
    const MatmulKernels* kernels;
    const Sums* sums;
    int64_t column;       // of out
    int64_t first_panel;  // counted over all parts
  };
  const int64_t n = x.rows, steps = x.cols / kStep;
  std::vector<Sums> sums;
  sums.reserve(factors.size());
  std::vector<Part> parts;
  int64_t column = 0, panels = 0, scratch_bytes = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing != nullptr) {
      const Layout& layout = w.packing->layout;
      const auto same = [&](const Sums& s) {
        return s.zero == layout.zero && s.group == layout.group && s.has_min == layout.has_min;
      };
      auto found = std::find_if(sums.begin(), sums.end(), same);
      if (found == sums.end())
        found =
            sums.insert(sums.end(), {layout.zero, layout.group, layout.has_min,
                                     arena_.take<int32_t>(2 * n * steps), arena_.take<float>(2 * n * steps)});
      parts.push_back({&w, kernels_.matmul(layout), &*found, column, panels});
      panels += w.panel_count();
      if (w.panels == nullptr) scratch_bytes = std::max(scratch_bytes, w.panel_bytes);
    }
    column += w.rows;
  }

  const std::vector<Tile> tiles = tiles_of(n);
  auto* q = arena_.take<int8_t>(n * x.cols);
  auto* scale = arena_.take<float>(n * steps);
  auto* raw = arena_.take<int32_t>(2 * n * steps);
  // Tile by tile, so that the lines of memory that its columns share stay in one thread's cache.
  for_rows(static_cast<int64_t>(tiles.size()), 2 * kTileColumns * x.cols, [&](int64_t t) {
    const Tile& tile = tiles[static_cast<size_t>(t)];
    const int64_t width = tile.columns, first = tile.first * steps;
    for (int64_t c = 0; c < width; ++c)
      kernels_.quantize(x.row(tile.first + c), x.cols, q + tile.first * x.cols + c * kStep, width * kStep,
                        scale + first + c, width, raw + 2 * (first + c));
    for (const Sums& s : sums) {
      const bool whole = s.group == kStep;
      for (int64_t i = first; i < first + width * steps; ++i) {
        const int32_t sum[2] = {whole ? raw[2 * i] + raw[2 * i + 1] : raw[2 * i], raw[2 * i + 1]};
        for (int h = 0; h < 2; ++h) {
          s.init[2 * i + h] = -s.zero * sum[h];
          if (s.has_min) s.sum[2 * i + h] = scale[i] * static_cast<float>(sum[h]);
        }
      }
    }
  });

  std::byte* expanded =
      scratch_bytes > 0 ? arena_.take<std::byte>(pool_.threads() * ((scratch_bytes + 63) / 64 * 64)) : nullptr;
  // Several chunks a thread, so that one that is interrupted does not hold up the others.
  const int64_t grain = std::max<int64_t>(1, panels / (pool_.threads() * 8));
  pool_.parallel_for(panels, grain, [&](int64_t begin, int64_t end, int thread) {
    size_t index = 0;
    for (int64_t p = begin; p < end; ++p) {
      while (index + 1 < parts.size() && p >= parts[index + 1].first_panel) ++index;
      const Part& part = parts[index];
      const CpuMatrix& w = *part.weight;
      const int64_t panel = p - part.first_panel, row = panel * kPanelRows;
      const std::byte* data = CpuBackend::panel(w, panel, expanded + thread * ((scratch_bytes + 63) / 64 * 64));
      for (const Tile& tile : tiles) {
        const int64_t base = tile.first * steps;
        const ActivationTile activations = {q + tile.first * x.cols, scale + base, part.sums->init + 2 * base,
                                            part.sums->sum + 2 * base};
        part.kernels->tile[tile.kernel](reinterpret_cast<const uint8_t*>(data), w.cols, w.packing->table,
                                        activations, out.row(tile.first) + part.column + row, out.stride,
                                        static_cast<int>(std::min<int64_t>(kPanelRows, w.rows - row)));
      }
    }
  });
}

void CpuBackend::matmul_float(const Factor& factor, Tensor x, Tensor out) {
  const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
  const FloatMatmulKernels& kernels = *kernels_.matmul_float(w.type);
  const std::vector<Tile> tiles = tiles_of(x.rows);
  auto* columns = arena_.take<float>(x.rows * x.cols);  // per tile [feature][column]
  for_rows(static_cast<int64_t>(tiles.size()), kTileColumns * x.cols, [&](int64_t t) {
    const Tile& tile = tiles[static_cast<size_t>(t)];
    for (int c = 0; c < tile.columns; ++c) {
      const float* from = x.row(tile.first + c);
      float* to = columns + tile.first * x.cols + c;
      for (int64_t k = 0; k < x.cols; ++k) to[k * tile.columns] = from[k];
    }
  });
  const int64_t room = w.panels == nullptr ? (w.panel_bytes + 63) / 64 * 64 : 0;
  auto* expanded = arena_.take<std::byte>(pool_.threads() * room);
  const int64_t grain = std::max<int64_t>(1, w.panel_count() / (pool_.threads() * 8));
  pool_.parallel_for(w.panel_count(), grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t row = p * kPanelRows;
      const std::byte* data = panel(w, p, expanded + thread * room);
      for (const Tile& tile : tiles)
        kernels.tile[tile.kernel](data, w.cols, columns + tile.first * x.cols, out.row(tile.first) + row,
                                  out.stride, static_cast<int>(std::min<int64_t>(kPanelRows, w.rows - row)));
    }
  });
}

}  // namespace pyllm::cpu
