// All quantizers, compiled once per instruction set.
#include "quantize/rows.h"

#include "quantize/blocks.h"
#include "quantize/grid_blocks.h"
#include "quantize/super_blocks.h"

namespace pyllm::quantize::PYLLM_ISA {

namespace {

// Types whose blocks have one scale, eight blocks at once.
template <typename Q>
void several(const float* x, const float* importance, typename Q::Block* b, int count) {
  if constexpr (Q::type == Type::MXFP4) {
    quantize_power(x, importance, b, count);
  } else if constexpr (Q::has_min) {
    quantize_affine<Q>(x, importance, b, count);
  } else {
    quantize_scaled<Q>(x, importance, b, count);
  }
}

// Types whose blocks have groups with scales of their own.
template <typename Q>
void one(const float* x, const float* importance, typename Q::Block& b) {
  if constexpr (Q::scales == quant::Scales::Float) {
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
  constexpr bool one_scale = Q::scales == quant::Scales::Half || Q::type == Type::MXFP4;
  constexpr int64_t at_once = one_scale ? kLanes : 1;
  for (int64_t first = 0; first < n / Q::block; first += at_once) {
    typename Q::Block b[at_once] = {};
    const int64_t i = first * Q::block, count = std::min(at_once, n / Q::block - first);
    if constexpr (one_scale) {
      several<Q>(x + i, importance + i, b, static_cast<int>(count));
    } else {
      one<Q>(x + i, importance + i, b[0]);
    }
    memcpy(out + first * static_cast<int64_t>(sizeof(b[0])), b, static_cast<size_t>(count) * sizeof(b[0]));
  }
}

}  // namespace

QuantizeRow quantizer(Type type) {
  switch (type) {
#define PYLLM_X(Q) \
  case Type::Q:    \
    return row<quant::Q>;
    PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
    default:
      return nullptr;
  }
}

}  // namespace pyllm::quantize::PYLLM_ISA
