// The list of quantized weight types: one line each, the only place that names them all.
#pragma once

#include "quant/q4_0.h"
#include "quant/q4_1.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

#define PYLLM_QUANT_TYPES(X) \
  X(Q4_0)                    \
  X(Q4_1)                    \
  X(Q6_K)                    \
  X(Q8_0)

namespace pyllm::quant {

// Calls f.template operator()<Q>() for the quantized type `type`; false when it is not one.
template <typename F>
bool visit(Type type, F&& f) {
  switch (type) {
#define PYLLM_X(Q)            \
  case Type::Q:               \
    f.template operator()<Q>(); \
    return true;
    PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
    default:
      return false;
  }
}

}  // namespace pyllm::quant
