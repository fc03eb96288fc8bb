// Weights as float32, whatever their type: the plain way, for embedding rows, small tensors and tests.
#pragma once

#include <cstdint>

#include "core/type.h"

namespace pyllm::quant {

// F32, F16, BF16 and every type of quant/types.h: what weights may be stored as.
bool is_weight_type(Type type);

// n weights at `row` (any alignment) into out[n], bit for bit what the GGUF format defines.
// Throws Error when `type` is not a weight type or n is not a whole number of its blocks.
void dequantize_row(Type type, const void* row, int64_t n, float* out);

}  // namespace pyllm::quant
