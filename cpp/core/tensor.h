// A non-owning view of numbers in a backend's memory: pointer, element type and shape.
#pragma once

#include <cstdint>

#include "core/type.h"

namespace pyllm {

// float32 activations unless `type` says otherwise: [rows, cols], rows `stride` elements apart.
// A row is a token (or a sampled row); columns are features, heads side by side.
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  float* row(int64_t r) const { return data + r * stride; }
  // Columns [first, first + count) of every row.
  Tensor columns(int64_t first, int64_t count) const { return {data + first, rows, count, stride}; }
};

}  // namespace pyllm
