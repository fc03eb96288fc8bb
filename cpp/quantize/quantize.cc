#include "quantize/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/error.h"
#include "core/half.h"
#include "quant/dequantize.h"
#include "quantize/rows.h"

namespace pyllm::quantize {
namespace {

QuantizeRow quantizer(Type type) {
#if defined(__x86_64__)
  const char* forced = std::getenv("PYLLM_ISA");
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && !(forced && std::string_view(forced) == "scalar"))
    return avx2::quantizer(type);
#endif
  return scalar::quantizer(type);
}

bool is_number(Type type) { return type == Type::F32 || type == Type::F16 || type == Type::BF16; }

int64_t row_bytes(Type type, int64_t cols) { return cols / type_info(type).block * type_info(type).bytes; }

void narrow(Type type, const float* x, int64_t n, std::byte* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = type == Type::F16 ? to_half(x[i]).bits : to_bfloat16(x[i]).bits;
    memcpy(out + 2 * i, &bits, 2);
  }
}

bool all_finite(std::span<const float> row) {
  uint32_t largest = 0;  // of the exponents: no branch, so that it is vectorized
  for (const float x : row) largest = std::max(largest, float_to_bits(x) & 0x7f800000u);
  return largest != 0x7f800000u;
}

// The first value of a row that is not finite, or -1. With `repair` such values become 0.
int64_t first_bad(std::span<float> row, bool repair) {
  if (all_finite(row)) return -1;
  const auto bad = [](float x) { return !std::isfinite(x); };
  if (!repair) return std::find_if(row.begin(), row.end(), bad) - row.begin();
  std::replace_if(row.begin(), row.end(), bad, 0.0f);
  return -1;
}

// Importance with mean 1. Columns that were never seen in use keep a little: their weights are wanted some day.
std::vector<float> relative(std::span<const float> importance, int64_t cols) {
  double sum = 0;
  for (const float v : importance) sum += v;
  std::vector<float> out(static_cast<size_t>(cols), 1.0f);
  if (sum > 0)
    for (size_t i = 0; i < importance.size(); ++i)
      out[i] = std::max(1e-5f, static_cast<float>(importance[i] * static_cast<double>(cols) / sum));
  return out;
}

}  // namespace

std::vector<Type> written_types() {
  std::vector<Type> types = {Type::F32, Type::F16, Type::BF16};
  for (const TypeInfo& info : kTypes)
    if (scalar::quantizer(info.type)) types.push_back(info.type);
  return types;
}

int64_t quantized_bytes(Type type, const Rows& rows) {
  const TypeInfo &to = type_info(type), &from = type_info(rows.type);
  if (!is_number(type) && !quantizer(type)) fail("quantize: ", to.name, " is no type that can be written");
  if (!quant::is_weight_type(rows.type)) fail("quantize: ", from.name, " is not a type of weights");
  for (const TypeInfo& info : {to, from})
    if (rows.cols < 1 || rows.cols % info.block != 0)
      fail("quantize: ", info.name, " has blocks of ", info.block, " weights; rows of ", rows.cols,
           " are no multiple of it");
  const int64_t size = static_cast<int64_t>(rows.data.size());
  if (rows.cols / from.block > size && size > 0)  // and no product below overflows
    fail("quantize: rows of ", rows.cols, " weights, got ", size, " bytes in all");
  const int64_t bytes = size > 0 ? row_bytes(rows.type, rows.cols) : 1;
  if (size % bytes != 0) fail("quantize: expected rows of ", bytes, " bytes, got ", size, " bytes in all");
  return size / bytes * row_bytes(type, rows.cols);
}

void quantize(Type type, const Rows& rows, const Options& options, ThreadPool& pool, std::span<std::byte> out) {
  const int64_t size = quantized_bytes(type, rows), cols = rows.cols;
  if (static_cast<int64_t>(out.size()) != size)
    fail("quantize: the output takes ", size, " bytes, there is room for ", out.size());
  if (!options.importance.empty() && static_cast<int64_t>(options.importance.size()) != cols)
    fail("quantize: expected the importance of ", cols, " columns, got ", options.importance.size());
  for (const float v : options.importance)
    if (!(v >= 0.0f && std::isfinite(v)))
      fail("quantize: an importance is ", v, ", expected finite numbers from 0");

  const int64_t from_bytes = row_bytes(rows.type, cols), to_bytes = row_bytes(type, cols);
  const int64_t count = size / to_bytes;
  const std::vector<float> importance = relative(options.importance, cols);
  const QuantizeRow row = quantizer(type);
  std::vector<float> buffers(static_cast<size_t>(pool.threads() * cols));
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};  // position of the first one
  pool.parallel_for(count, 1, [&](int64_t begin, int64_t end, int thread) {
    float* x = buffers.data() + thread * cols;
    for (int64_t r = begin; r < end; ++r) {
      quant::dequantize_row(rows.type, rows.data.data() + r * from_bytes, cols, x);
      if (const int64_t column = first_bad({x, static_cast<size_t>(cols)}, options.repair); column >= 0) {
        int64_t seen = bad.load();
        while (r * cols + column < seen && !bad.compare_exchange_weak(seen, r * cols + column)) {
        }
        continue;
      }
      std::byte* to = out.data() + r * to_bytes;
      if (type == Type::F32) {
        memcpy(to, x, static_cast<size_t>(to_bytes));
      } else if (is_number(type)) {
        narrow(type, x, cols, to);
      } else {
        row(x, importance.data(), cols, to);
      }
    }
  });
  if (const int64_t at = bad.load(); at != std::numeric_limits<int64_t>::max())
    fail("the weight in row ", at / cols, ", column ", at % cols, " is not a finite number");
}

}  // namespace pyllm::quantize
