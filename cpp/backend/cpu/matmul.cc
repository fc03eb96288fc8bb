// Products with packed weights: the activations are quantized once into tiles, then panels are dealt to the
// threads.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace pyllm::cpu {

namespace {

// Tiles of 8 columns, the rest as 4, 2 and 1: the kernels' fixed widths.
struct Tile {
  int64_t first;  // column
  int columns;
  int kernel;  // index into MatmulKernels::tile
};

std::vector<Tile> tiles_of(int64_t columns) {
  std::vector<Tile> tiles;
  int64_t first = 0;
  for (int kernel = 3; kernel >= 0; --kernel)
    for (const int width = 1 << kernel; columns - first >= width; first += width)
      tiles.push_back({first, width, kernel});
  return tiles;
}

// Sums of the activations as one kind of factor wants them (ActivationTile::init and ::sum).
struct Sums {
  int zero;
  int groups;  // of a step
  bool has_min;
  int32_t* init;
  float* sum;
};

// raw [step][2][width]: sums of both halves of each step.
void fill(const Sums& s, const int32_t* raw, int64_t steps, int64_t width, int64_t base) {
  int32_t* init = s.init + base * s.groups;
  float* sum = s.sum + base * s.groups;
  for (int64_t i = 0; i < steps * s.groups; ++i)
    for (int64_t c = 0; c < width; ++c) {
      const int32_t one =
          s.groups == 2 ? raw[i * width + c] : raw[2 * i * width + c] + raw[(2 * i + 1) * width + c];
      if (s.zero != 0) init[i * width + c] = -s.zero * one;
      if (s.has_min) sum[i * width + c] = static_cast<float>(one);
    }
}

// Pairs of panels that pass together by each tile: as many as stay in the second-level cache meanwhile.
int64_t pairs_at_once(const CpuMatrix& w) {
  constexpr int64_t kBytes = 320 << 10;
  return w.panels == nullptr ? 1 : std::max<int64_t>(1, kBytes / (2 * w.panel_bytes));
}

// Bytes a thread needs to hold a pair of panels that are not kept packed.
int64_t unpacked_room(const CpuMatrix& w) {
  return w.panels == nullptr ? (2 * w.panel_bytes + 63) / 64 * 64 : 0;
}

// The panels from `first` on; a pair of them, packed into `room`, where they are not kept.
const std::byte* panels_from(const Kernels& kernels, const CpuMatrix& w, int64_t first, std::byte* room) {
  if (w.panels != nullptr) return w.panels + first * w.panel_bytes;
  for (int64_t p = first; p < std::min(first + 2, w.panel_count()); ++p)
    pack_panel(kernels, w.type, w.source.data(), w.rows, w.cols, p * kPanelRows,
               room + (p - first) * w.panel_bytes);
  return room;
}

}  // namespace

// Row r of what the product reads; `buffer` holds it where it has to be computed.
const float* CpuBackend::input_row(const Input& input, int64_t r, float* buffer) const {
  const float* x = input.x.row(r);
  const int64_t n = input.cols();
  switch (input.op) {
    case Input::Op::None:
      return x;
    case Input::Op::RmsNorm:
      kernels_.rms_norm(x, input.weight->data, input.eps, n, buffer);
      break;
    case Input::Op::SiluGate:
      kernels_.silu_gate(x, x + n, n, buffer);
      break;
    case Input::Op::GeluGate:
      kernels_.gelu_gate(x, x + n, n, buffer);
      break;
  }
  return buffer;
}

void CpuBackend::matmul(std::span<const Factor> factors, const Input& x, Tensor out, bool add) {
  const int64_t mark = arena_.mark();
  bool any_quantized = false;
  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing == nullptr) matmul_float(factor, x, out.columns(column, w.rows), add);
    any_quantized |= w.packing != nullptr;
    column += w.rows;
  }
  if (any_quantized) precise_ ? matmul_precise(factors, x, out, add) : matmul_quantized(factors, x, out, add);
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
void CpuBackend::matmul_precise(std::span<const Factor> factors, const Input& x, Tensor out, bool add) {
  const int64_t n = x.x.rows, cols = x.cols(), steps = cols / kStep;
  Tensor both = scratch(2 * n, cols), result = scratch(2 * n, out.cols);
  auto* q = arena_.take<int8_t>(n * cols);
  auto* scale = arena_.take<float>(n * steps);
  auto* sums = arena_.take<int32_t>(2 * n * steps);
  for_rows(n, 4 * cols, [&](int64_t r) {
    const float* row = input_row(x, r, both.row(r));
    kernels_.quantize(row, cols, 1, q + r * cols, scale + r * steps, sums + 2 * r * steps);
    for (int64_t i = 0; i < cols; ++i) {
      both.row(r)[i] = row[i];
      both.row(n + r)[i] = row[i] - scale[r * steps + i / kStep] * static_cast<float>(q[r * cols + i]);
    }
  });
  matmul_quantized(factors, {both}, result, false);
  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing != nullptr)
      for_rows(n, w.rows, [&](int64_t r) {
        const float *whole = result.row(r) + column, *rest = result.row(n + r) + column;
        float* to = out.row(r) + column;
        for (int64_t i = 0; i < w.rows; ++i) to[i] = (add ? to[i] : 0.0f) + (whole[i] + rest[i]);
      });
    column += w.rows;
  }
}

void CpuBackend::matmul_quantized(std::span<const Factor> factors, const Input& x, Tensor out, bool add) {
  struct Part {
    const CpuMatrix* weight;
    const MatmulKernels* kernels;
    const Sums* sums;
    int64_t column;      // of out
    int64_t first_pair;  // of panels, counted over all parts
  };
  const int64_t n = x.x.rows, cols = x.cols(), steps = cols / kStep;
  std::vector<Sums> sums;
  sums.reserve(factors.size());
  std::vector<Part> parts;
  int64_t column = 0, pairs = 0, room = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
    if (w.packing != nullptr) {
      const Layout& layout = w.packing->layout;
      const int groups = layout.groups_per_step();
      const auto same = [&](const Sums& s) {
        return s.zero == layout.zero && s.groups == groups && s.has_min == layout.has_min;
      };
      auto found = std::find_if(sums.begin(), sums.end(), same);
      if (found == sums.end())
        found = sums.insert(sums.end(),
                            {layout.zero, groups, layout.has_min, arena_.take<int32_t>(n * steps * groups),
                             arena_.take<float>(n * steps * groups)});
      parts.push_back({&w, kernels_.matmul(layout), &*found, column, pairs});
      pairs += (w.panel_count() + 1) / 2;
      room = std::max(room, unpacked_room(w));
    }
    column += w.rows;
  }

  const std::vector<Tile> tiles = tiles_of(n);
  auto* q = arena_.take<int8_t>(n * cols);
  auto* scale = arena_.take<float>(n * steps);
  const int64_t raw_size = 2 * kTileColumns * steps;
  auto* raw = arena_.take<int32_t>(pool_.threads() * raw_size);
  auto* buffer = arena_.take<float>(pool_.threads() * cols);
  pool_.parallel_for(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      const Tile& tile = tiles[static_cast<size_t>(t)];
      int32_t* mine = raw + thread * raw_size;
      for (int64_t c = 0; c < tile.columns; ++c)
        kernels_.quantize(input_row(x, tile.first + c, buffer + thread * cols), cols, tile.columns,
                          q + tile.first * cols + c * kStep, scale + tile.first * steps + c, mine + c);
      for (const Sums& s : sums) fill(s, mine, steps, tile.columns, tile.first * steps);
    }
  });

  std::byte* unpacked = room > 0 ? arena_.take<std::byte>(pool_.threads() * room) : nullptr;
  // Several chunks a thread, so that one that is interrupted does not hold up the others.
  const int64_t grain = std::max<int64_t>(1, pairs / (pool_.threads() * 8));
  pool_.parallel_for(pairs, grain, [&](int64_t begin, int64_t end, int thread) {
    size_t index = 0;
    while (begin < end) {
      while (index + 1 < parts.size() && begin >= parts[index + 1].first_pair) ++index;
      const Part& part = parts[index];
      const CpuMatrix& w = *part.weight;
      const int64_t of_part = part.first_pair + (w.panel_count() + 1) / 2;
      const int64_t last = std::min({end, of_part, begin + pairs_at_once(w)}), first = begin - part.first_pair;
      const std::byte* panels = panels_from(kernels_, w, 2 * first, unpacked + thread * room);
      for (const Tile& tile : tiles) {
        const int64_t base = tile.first * steps;
        const Sums& s = *part.sums;
        const ActivationTile activations = {q + tile.first * cols, scale + base, s.init + base * s.groups,
                                            s.sum + base * s.groups};
        for (int64_t pair = 0; pair < last - begin; ++pair) {
          const int64_t row = 2 * (first + pair) * kPanelRows;
          const int rows = static_cast<int>(std::min<int64_t>(2 * kPanelRows, w.rows - row));
          part.kernels->tile[rows > kPanelRows][tile.kernel](
              reinterpret_cast<const uint8_t*>(panels + 2 * pair * w.panel_bytes), w.cols, w.packing->table,
              activations, {out.row(tile.first) + part.column + row, out.stride, rows, add});
        }
      }
      begin = last;
    }
  });
}

void CpuBackend::matmul_float(const Factor& factor, const Input& x, Tensor out, bool add) {
  const auto& w = static_cast<const CpuMatrix&>(*factor.weight);
  const FloatMatmulKernels& kernels = *kernels_.matmul_float(w.type);
  const int64_t cols = x.cols();
  const std::vector<Tile> tiles = tiles_of(x.x.rows);
  auto* columns = arena_.take<float>(x.x.rows * cols);  // per tile [feature][column]
  auto* buffer = arena_.take<float>(pool_.threads() * cols);
  pool_.parallel_for(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      const Tile& tile = tiles[static_cast<size_t>(t)];
      for (int c = 0; c < tile.columns; ++c) {
        const float* from = input_row(x, tile.first + c, buffer + thread * cols);
        float* to = columns + tile.first * cols + c;
        for (int64_t k = 0; k < cols; ++k) to[k * tile.columns] = from[k];
      }
    }
  });
  const int64_t room = unpacked_room(w);
  std::byte* unpacked = room > 0 ? arena_.take<std::byte>(pool_.threads() * room) : nullptr;
  const int64_t pairs = (w.panel_count() + 1) / 2, grain = std::max<int64_t>(1, pairs / (pool_.threads() * 8));
  pool_.parallel_for(pairs, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t last; begin < end; begin = last) {
      last = std::min(end, begin + pairs_at_once(w));
      const std::byte* panels = panels_from(kernels_, w, 2 * begin, unpacked + thread * room);
      for (const Tile& tile : tiles)
        for (int64_t pair = begin; pair < last; ++pair) {
          const int64_t row = 2 * pair * kPanelRows;
          const int rows = static_cast<int>(std::min<int64_t>(2 * kPanelRows, w.rows - row));
          kernels.tile[rows > kPanelRows][tile.kernel](panels + 2 * (pair - begin) * w.panel_bytes, w.cols,
                                                       columns + tile.first * cols,
                                                       {out.row(tile.first) + row, out.stride, rows, add});
        }
    }
  });
}

}  // namespace pyllm::cpu
