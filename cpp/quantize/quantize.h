// Floats to the types of GGUF weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "core/type.h"

namespace pyllm::quantize {

// Types that can be written: F32, F16, BF16 and quantized ones.
std::vector<Type> written_types();

// x: float32 [rows, cols]. importance: [cols], how much a squared error counts, or empty for the same
// everywhere. Returns the rows' blocks. The same bytes on every machine and with any number of threads. Throws
// Error: a type that cannot be written, cols no multiple of its block, values that are not finite.
std::vector<std::byte> quantize(Type type, std::span<const float> x, int64_t cols,
                                std::span<const float> importance, ThreadPool& pool);

}  // namespace pyllm::quantize
