// Weights of any type to another one that can be written.
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

// Rows of `cols` weights of a type, as a file holds them.
struct Rows {
  Type type;
  std::span<const std::byte> data;
  int64_t cols;
};

struct Options {
  std::span<const float> importance =
      {};               // [cols]: how much a squared error counts; empty: the same everywhere
  bool repair = false;  // NaN and infinities become 0 in place of an error
};

// Bytes that the rows take as `type`. Throws Error: a type that cannot be read or written, cols no multiple of
// a block, data that is no whole number of rows.
int64_t quantized_bytes(Type type, const Rows& rows);

// Writes the rows as `type` to out [quantized_bytes]. The same bytes on every machine and with any number of
// threads. Throws Error: as above, or values that are not finite: the first one's row and column.
void quantize(Type type, const Rows& rows, const Options& options, ThreadPool& pool, std::span<std::byte> out);

}  // namespace pyllm::quantize
