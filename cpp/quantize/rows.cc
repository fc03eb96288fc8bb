// All quantizers, compiled once per instruction set.
#include "quantize/rows.h"

#include "quantize/blocks.h"
#include "quantize/grid_blocks.h"
#include "quantize/super_blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

namespace {

template <typename Q>
void one(const float* x, const float* importance, typename Q::Block& b) {
  if constexpr (Q::type == Type::MXFP4) {
    quantize_power(x, importance, b);
  } else if constexpr (Q::scales == quant::Scales::Half) {
    if constexpr (Q::has_min) {
      quantize_affine<Q>(x, importance, b);
    } else {
      quantize_scaled<Q>(x, importance, b);
    }
  } else if constexpr (Q::scales == quant::Scales::Float) {
    quantize_grid<Q>(x, importance, b);
  } else if constexpr (Q::type == Type::Q2_K) {
    quantize_super_affine<Q, 15>(x, importance, b);
  } else if constexpr (Q::has_min) {
    quantize_super_affine<Q, 63>(x, importance, b);
  } else if constexpr (Q::type == Type::Q6_K) {
    quantize_super_scaled<Q, -128, 127>(x, importance, b);
  } else {
    quantize_super_scaled<Q, -32, 31>(x, importance, b);
  }
}

template <typename Q>
void row(const float* x, const float* importance, int64_t n, std::byte* out) {
  for (int64_t i = 0; i < n; i += Q::block) {
    typename Q::Block b{};
    one<Q>(x + i, importance + i, b);
    memcpy(out + i / Q::block * static_cast<int64_t>(sizeof(b)), &b, sizeof(b));
  }
}

}  // namespace

QuantizeRow quantizer(Type type) {
  switch (type) {
#define PYLLM_X(Q) \
  case Type::Q:    \
    return row<quant::Q>;
    PYLLM_WRITTEN_TYPES(PYLLM_X)
#undef PYLLM_X
    default:
      return nullptr;
  }
}

}  // namespace pyllm::quantize::PYLLM_ISA
