#include "quantize/quantize.h"

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "quantize/rows.h"

namespace pyllm::quantize {
namespace {

QuantizeRow quantizer(Type type) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) return avx2::quantizer(type);
#endif
  return scalar::quantizer(type);
}

void check_finite(std::span<const float> values, const char* what, int64_t cols) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      fail("quantize: ", what, " holds ", values[i], " in row ", static_cast<int64_t>(i) / cols, ", column ",
           static_cast<int64_t>(i) % cols, ", expected finite numbers");
}

void narrow_row(Type type, const float* x, int64_t n, std::byte* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = type == Type::F16 ? to_half(x[i]).bits : to_bfloat16(x[i]).bits;
    memcpy(out + 2 * i, &bits, 2);
  }
}

}  // namespace

std::vector<Type> written_types() {
  std::vector<Type> types = {Type::F32, Type::F16, Type::BF16};
  for (const TypeInfo& info : kTypes)
    if (scalar::quantizer(info.type)) types.push_back(info.type);
  return types;
}

std::vector<std::byte> quantize(Type type, std::span<const float> x, int64_t cols,
                                std::span<const float> importance, ThreadPool& pool) {
  const TypeInfo& info = type_info(type);
  const bool number = type == Type::F32 || type == Type::F16 || type == Type::BF16;
  const QuantizeRow row = quantizer(type);
  if (!number && !row) fail("quantize: type ", info.name, " cannot be written");
  const int64_t count = static_cast<int64_t>(x.size());
  if (cols < 1 || count % cols != 0)
    fail("quantize: expected rows of ", cols, " values, got ", count, " in all");
  if (cols % info.block != 0)
    fail("quantize: ", info.name, " has blocks of ", info.block, ", rows of ", cols, " are no multiple of it");
  if (!importance.empty() && static_cast<int64_t>(importance.size()) != cols)
    fail("quantize: expected the importance of ", cols, " columns, got ", importance.size());
  check_finite(x, "the tensor", cols);
  check_finite(importance, "the importance", cols);

  const int64_t row_bytes = cols / info.block * info.bytes;
  std::vector<std::byte> out(static_cast<size_t>(count / cols * row_bytes));
  const std::vector<float> even(importance.empty() ? cols : 0, 1.0f);
  const float* weight = importance.empty() ? even.data() : importance.data();
  pool.parallel_for(count / cols, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = x.data() + r * cols;
      std::byte* to = out.data() + r * row_bytes;
      if (type == Type::F32) {
        memcpy(to, from, static_cast<size_t>(row_bytes));
      } else if (number) {
        narrow_row(type, from, cols, to);
      } else {
        row(from, weight, cols, to);
      }
    }
  });
  return out;
}

}  // namespace pyllm::quantize
