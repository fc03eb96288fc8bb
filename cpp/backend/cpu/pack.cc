#include "backend/cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/half.h"
#include "quant/dequantize.h"
#include "quant/types.h"

namespace pyllm::cpu {

namespace {

using quant::Scales;

// The bit planes of one step (layout.h describes them) from codes as bytes: code[64 q + 4 row + j] in quad
// order.
template <Layout L>
void pack_codes(const uint8_t* code, uint8_t* step) {
  constexpr int n = L.code_bits;
  if constexpr (n == 8) {
    std::memcpy(step, code, 512);
    return;
  }
  constexpr int low = n >= 4 ? 4 : 0;  // bits that the first plane takes
  if constexpr (n >= 4) {
    for (int i = 0; i < 256; ++i) step[i] = static_cast<uint8_t>((code[i] & 15) | code[i + 256] << 4);
    step += 256;
  }
  if constexpr (n == 2 || n == 3 || n == 6) {
    for (int h = 0; h < 2; ++h, step += 64) {
      const uint8_t* c = code + 256 * h;
      for (int i = 0; i < 64; ++i)
        step[i] = static_cast<uint8_t>((c[i] >> low & 3) | (c[i + 64] >> low & 3) << 2 |
                                       (c[i + 128] >> low & 3) << 4 | (c[i + 192] >> low & 3) << 6);
    }
  }
  if constexpr (n == 3 || n == 5) {
    for (int i = 0; i < 64; ++i) {
      int all = 0;
      for (int q = 0; q < 8; ++q) all |= (code[64 * q + i] >> (n - 1) & 1) << q;
      step[i] = static_cast<uint8_t>(all);
    }
  }
}

// The half that equals x: no rounding to do, which is what makes to_half slow.
uint16_t exact_half(float x) {
  const uint32_t bits = float_to_bits(x), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude >= 0x7f800000u) return to_half(x).bits;                          // infinity and NaN
  const float rebiased = bits_to_float(magnitude) * bits_to_float(0x07800000u);  // * 2^-112: exact
  return static_cast<uint16_t>(sign | float_to_bits(rebiased) >> 13);
}

// Writes scale and min of one row where the kernels' reader expects them.
template <typename Q, Layout L>
void pack_scales(const typename Q::Block& block, int64_t index, int row, uint8_t* scales) {
  constexpr int groups = Q::block / Q::group;
  constexpr int parts = Q::has_min ? 2 : 1;
  if constexpr (L.scales == Scales::Super) {
    const quant::SuperScales s = Q::super(block);
    uint8_t* p = scales + index * parts * (32 + groups * 16);
    std::memcpy(p + 2 * row, &s.d, 2);
    if (Q::has_min) std::memcpy(p + 32 + 2 * row, &s.dmin, 2);
    p += parts * 32;
    for (int g = 0; g < groups; ++g) {
      p[g * parts * 16 + row] = static_cast<uint8_t>(s.scale[g]);
      if (Q::has_min) p[(g * parts + 1) * 16 + row] = s.min[g];
    }
  } else {
    constexpr int size = L.scales == Scales::Half ? 2 : 4;
    for (int g = 0; g < groups; ++g) {
      const quant::ScaleMin s = Q::scale_min(block, g);
      uint8_t* p = scales + (index * groups + g) * parts * 16 * size + size * row;
      for (int part = 0; part < parts; ++part, p += 16 * size) {
        const float value = part == 0 ? s.scale : s.min;
        if constexpr (L.scales == Scales::Half) {
          const uint16_t bits = exact_half(value);
          std::memcpy(p, &bits, 2);
        } else {
          std::memcpy(p, &value, 4);
        }
      }
    }
  }
}

template <typename Q>
void pack_rows(const std::byte* data, int64_t rows, int64_t columns, int64_t row, uint8_t* panel) {
  constexpr Layout L = layout_of<Q>();
  const int64_t blocks = columns / Q::block;
  const int here = static_cast<int>(std::min<int64_t>(kPanelRows, rows - row));
  const auto* source = reinterpret_cast<const typename Q::Block*>(data) + row * blocks;
  uint8_t* step = panel + L.scale_bytes(columns);
  std::memset(panel, 0, static_cast<size_t>(L.scale_bytes(columns)));
  alignas(64) uint8_t quads[Q::block / kStep][512] = {};  // [step][quad][row][4]
  for (int64_t b = 0; b < blocks; ++b) {
    for (int r = 0; r < here; ++r) {
      const typename Q::Block& block = source[r * blocks + b];
      pack_scales<Q, L>(block, b, r, panel);
      alignas(32) uint8_t code[Q::block];
      for (int g = 0; g < Q::block / Q::group; ++g) Q::codes(block, g, code + g * Q::group);
      for (int k = 0; k < Q::block; k += 4) std::memcpy(&quads[k / kStep][k % kStep * 16 + 4 * r], code + k, 4);
    }
    for (int s = 0; s < Q::block / kStep; ++s, step += L.step_bytes()) pack_codes<L>(quads[s], step);
  }
}

template <typename Q>
const PackedType* packed() {
  const uint8_t* table = nullptr;
  if constexpr (quant::has_table<Q>) table = Q::table;
  // The lookup types spread 2 or 3 bits over 8: packed, they would multiply the memory.
  constexpr int64_t file_bytes = int64_t{kPanelRows} * (256 / Q::block) * sizeof(typename Q::Block);
  constexpr bool compact = layout_of<Q>().panel_bytes(256) <= file_bytes * 3 / 2;
  static const PackedType type = {layout_of<Q>(), table, compact, pack_rows<Q>};
  return &type;
}

}  // namespace

const PackedType* packed_type(Type type) {
  const PackedType* found = nullptr;
  quant::visit(type, [&]<typename Q>() { found = packed<Q>(); });
  return found;
}

namespace {

void pack_float_panel(Type type, const std::byte* data, int64_t rows, int64_t columns, int64_t row,
                      std::byte* panel) {
  const int64_t size = type_info(type).bytes;
  const int64_t here = std::min<int64_t>(kPanelRows, rows - row);
  std::memset(panel, 0, static_cast<size_t>(kPanelRows * columns * size));
  for (int64_t r = 0; r < here; ++r) {
    const std::byte* source = data + (row + r) * columns * size;
    for (int64_t k = 0; k < columns; ++k)
      std::memcpy(panel + (k * kPanelRows + r) * size, source + k * size, size);
  }
}

}  // namespace

int64_t panel_bytes(Type type, int64_t columns) {
  const PackedType* packing = packed_type(type);
  return packing != nullptr ? packing->layout.panel_bytes(columns)
                            : kPanelRows * columns * type_info(type).bytes;
}

void pack_panel(Type type, const std::byte* data, int64_t rows, int64_t columns, int64_t row,
                std::byte* panel) {
  if (const PackedType* packing = packed_type(type))
    packing->pack(data, rows, columns, row, reinterpret_cast<uint8_t*>(panel));
  else
    pack_float_panel(type, data, rows, columns, row, panel);
}

void pack_panel(const Kernels& kernels, Type type, const std::byte* data, int64_t rows, int64_t columns,
                int64_t row, std::byte* panel) {
  const PackKernel pack = rows - row >= kPanelRows ? kernels.pack(type) : nullptr;
  if (pack == nullptr) return pack_panel(type, data, rows, columns, row, panel);
  const TypeInfo& info = type_info(type);
  pack(data + row * (columns / info.block) * info.bytes, columns, reinterpret_cast<uint8_t*>(panel));
}

uint64_t packing_fingerprint() {
  constexpr int64_t rows = kPanelRows + 3, columns = 512;  // a full panel and one with rows missing
  uint64_t hash = 0xcbf29ce484222325u;                     // FNV-1a, eight bytes at a time
  const auto mix = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001b3u, hash ^= hash >> 32; };
  for (const TypeInfo& info : kTypes) {
    if (!quant::is_weight_type(info.type)) continue;
    const auto size = static_cast<size_t>(rows * (columns / info.block) * info.bytes);
    std::vector<std::byte> source(size), panel(static_cast<size_t>(panel_bytes(info.type, columns)));
    uint32_t random = 1;
    for (std::byte& byte : source) {
      random = random * 1664525 + 1013904223;
      byte = static_cast<std::byte>(random >> 24);
    }
    mix(static_cast<uint64_t>(info.type));
    mix(panel.size());
    for (int64_t row = 0; row < rows; row += kPanelRows) {
      pack_panel(info.type, source.data(), rows, columns, row, panel.data());
      for (size_t i = 0; i + 8 <= panel.size(); i += 8) {
        uint64_t word;
        std::memcpy(&word, panel.data() + i, 8);
        mix(word);
      }
    }
  }
  return hash;
}

}  // namespace pyllm::cpu
