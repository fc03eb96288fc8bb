#include "quant/dequantize.h"

#include <cstring>

#include "core/error.h"
#include "quant/types.h"

namespace pyllm::quant {
namespace {

// The block is copied first: a row may start at any address.
template <typename Block, typename Convert>
void for_each_block(const void* row, int64_t blocks, Convert convert) {
  const auto* bytes = static_cast<const unsigned char*>(row);
  for (int64_t i = 0; i < blocks; ++i) {
    Block block;
    memcpy(&block, bytes + i * static_cast<int64_t>(sizeof(Block)), sizeof(Block));
    convert(block, i);
  }
}

template <typename Number>
void widen(const void* row, int64_t n, float* out) {
  for_each_block<Number>(row, n, [out](Number x, int64_t i) { out[i] = to_float(x); });
}

}  // namespace

bool is_weight_type(Type type) {
  return type == Type::F32 || type == Type::F16 || type == Type::BF16 || visit(type, []<typename Q>() {});
}

void dequantize_row(Type type, const void* row, int64_t n, float* out) {
  if (!is_weight_type(type)) {
    const TypeInfo* info = type_info(static_cast<uint32_t>(type));
    fail("dequantize: ", info ? info->name : message("type ", static_cast<uint32_t>(type)),
         " is not a type of weights");
  }
  const int block = type_info(type).block;
  if (n < 0 || n % block != 0)
    fail("dequantize: expected a multiple of ", block, " weights for ", type_info(type).name, ", got ", n);
  if (n == 0) return;
  if (type == Type::F32) {
    memcpy(out, row, static_cast<size_t>(n) * sizeof(float));
  } else if (type == Type::F16) {
    widen<half>(row, n, out);
  } else if (type == Type::BF16) {
    widen<bfloat16>(row, n, out);
  } else {
    visit(type, [&]<typename Q>() {
      for_each_block<typename Q::Block>(row, n / block, [out](const typename Q::Block& b, int64_t i) {
        dequantize<Q>(b, out + i * Q::block);
      });
    });
  }
}

}  // namespace pyllm::quant
