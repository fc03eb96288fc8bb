// A row of floats to blocks of a type. See quantize.h for who calls this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/type.h"

namespace pyllm::quantize {

// x, importance: [n], n a multiple of the type's block. out: the blocks' bytes.
using QuantizeRow = void (*)(const float* x, const float* importance, int64_t n, std::byte* out);

// nullptr for a type that cannot be written.
namespace scalar {
QuantizeRow quantizer(Type type);
}
#if defined(__x86_64__)
namespace avx2 {
QuantizeRow quantizer(Type type);
}
#endif

}  // namespace pyllm::quantize
