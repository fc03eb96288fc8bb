// From the file's blocks to panels of 16 rows (layout.h), and the storage of both.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/layout.h"
#include "core/type.h"

namespace pyllm::cpu {

// How weights of one type reach the kernels.
struct PackedType {
  Layout layout;
  const uint8_t* table;  // 16 values, or nullptr
  bool keep_packed;      // false: expand each panel just before use
  // Packs rows [row, row + 16) of a matrix into a panel; rows past `rows` become zeros.
  void (*pack)(const std::byte* data, int64_t rows, int64_t columns, int64_t row, uint8_t* panel);
};

// nullptr when `type` is not a quantized weight type.
const PackedType* packed_type(Type type);

// Of any weight type; F32, F16 and BF16 become [column][16 rows] of the same element type.
int64_t panel_bytes(Type type, int64_t columns);
void pack_panel(Type type, const std::byte* data, int64_t rows, int64_t columns, int64_t row, std::byte* panel);
// The same bytes, faster where these kernels can (a NaN among the scales may get other bits of NaN).
void pack_panel(const Kernels& kernels, Type type, const std::byte* data, int64_t rows, int64_t columns,
                int64_t row, std::byte* panel);

// Tells packed forms apart: a hash of what packing makes of sample weights of every type, so that whatever
// changes the panels changes it too.
uint64_t packing_fingerprint();

}  // namespace pyllm::cpu
