// How a token is chosen from a row of logits, for devices that do it where the logits are.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "core/half.h"

namespace pyllm {

// What biases, bans and penalties do to one logit.
struct LogitEdit {
  int32_t id;
  float scale;  // of a positive logit the divisor, of others the factor
  float add;

  PYLLM_HD float of(float x) const { return (x > 0.0f ? x / scale : x * scale) + add; }
};

// The part of the sampler's chain (engine/sampler.h) that devices know.
struct Choice {
  float temperature = 0.0f;  // 0: the highest logit, the lowest id among equals
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;
  float log_min_p = -std::numeric_limits<float>::infinity();
  double u = 0.0;                    // where in [0, 1) to draw
  bool logprob = false;              // wanted
  std::span<const LogitEdit> edits;  // in order of ids; of one id in the order in which they apply
  std::span<const uint32_t> mask;    // as engine/mask_source.h has it; empty: any token may come
};

enum class ChoiceStatus : int32_t {
  Chosen,
  BadLogit,     // the token's logit is NaN or +infinity: the value
  NoLogits,     // all are -infinity
  Overflow,     // the edits made such a logit
  NothingLeft,  // mask and edits leave no token
};

struct Chosen {
  int32_t token;
  ChoiceStatus status;
  float value;
  float logprob;  // of the token among the logits as they came
};

}  // namespace pyllm
