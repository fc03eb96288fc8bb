// The list of quantized weight types: one line each, the only place that names them all.
#pragma once

#include "quant/iq1_m.h"
#include "quant/iq1_s.h"
#include "quant/iq2_s.h"
#include "quant/iq2_xs.h"
#include "quant/iq2_xxs.h"
#include "quant/iq3_s.h"
#include "quant/iq3_xxs.h"
#include "quant/iq4_nl.h"
#include "quant/iq4_xs.h"
#include "quant/mxfp4.h"
#include "quant/q2_k.h"
#include "quant/q3_k.h"
#include "quant/q4_0.h"
#include "quant/q4_1.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_1.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"
#include "quant/tq1_0.h"
#include "quant/tq2_0.h"

#define PYLLM_QUANT_TYPES(X) \
  X(Q4_0)                    \
  X(Q4_1)                    \
  X(Q5_0)                    \
  X(Q5_1)                    \
  X(Q8_0)                    \
  X(Q2_K)                    \
  X(Q3_K)                    \
  X(Q4_K)                    \
  X(Q5_K)                    \
  X(Q6_K)                    \
  X(IQ4_NL)                  \
  X(IQ4_XS)                  \
  X(IQ3_S)                   \
  X(IQ3_XXS)                 \
  X(IQ2_S)                   \
  X(IQ2_XS)                  \
  X(IQ2_XXS)                 \
  X(IQ1_S)                   \
  X(IQ1_M)                   \
  X(TQ1_0)                   \
  X(TQ2_0)                   \
  X(MXFP4)

namespace pyllm::quant {

// What packing and kernels assume of a type, and that it agrees with the table of GGUF types.
template <typename Q>
constexpr bool keeps_contract() {
  constexpr int bits = Q::code_bits;
  return Q::block == type_info(Q::type).block && sizeof(typename Q::Block) == type_info(Q::type).bytes &&
         (Q::group == 16 || Q::group == 32) && Q::block % Q::group == 0 &&
         ((bits >= 2 && bits <= 6) || bits == 8) && (!has_table<Q> || bits == 4) &&
         (Q::scales != Scales::Super || Q::block / Q::group <= 16);
}
#define PYLLM_X(Q) static_assert(keeps_contract<Q>(), #Q);
PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X

// Calls f.template operator()<Q>() for the quantized type `type`; false when it is not one.
template <typename F>
bool visit(Type type, F&& f) {
  switch (type) {
#define PYLLM_X(Q)              \
  case Type::Q:                 \
    f.template operator()<Q>(); \
    return true;
    PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
    default:
      return false;
  }
}

}  // namespace pyllm::quant
