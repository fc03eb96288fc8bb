#include "engine/sampling_params.h"

#include <cmath>

#include "core/error.h"

namespace pyllm {
namespace {

template <typename T>
void between(const char* field, T value, T low, T high) {
  if (!(value >= low && value <= high))  // NaN is in no range
    fail(field, ": expected ", low, " to ", high, ", got ", value);
}

void token(const char* field, int32_t id, int64_t vocab) {
  if (id < 0 || id >= vocab) fail(field, ": expected token ids from 0 to ", vocab - 1, ", got ", id);
}

}  // namespace

void validate(const SamplingParams& p, int64_t vocab) {
  constexpr int32_t kMany = std::numeric_limits<int32_t>::max();
  between("max_tokens", p.max_tokens, 1, kMany);
  between("min_tokens", p.min_tokens, 0, p.max_tokens);
  for (const int32_t id : p.stop_token_ids) token("stop_token_ids", id, vocab);
  between("n", p.n, 1, kMaxForks);

  if (!(p.repetition_penalty > 0.0f && p.repetition_penalty <= 100.0f))
    fail("repetition_penalty: expected more than 0 and at most 100 (1 is off), got ", p.repetition_penalty);
  between("presence_penalty", p.presence_penalty, -100.0f, 100.0f);
  between("frequency_penalty", p.frequency_penalty, -100.0f, 100.0f);
  between("penalty_last_n", p.penalty_last_n, -1, kMany);
  between("dry_multiplier", p.dry_multiplier, 0.0f, 1000.0f);
  between("dry_base", p.dry_base, 1.0f, 1000.0f);
  between("dry_allowed_length", p.dry_allowed_length, 1, kMany);
  between("dry_penalty_last_n", p.dry_penalty_last_n, -1, kMany);
  for (const auto& breaker : p.dry_sequence_breakers) {
    if (breaker.empty()) fail("dry_sequence_breakers: expected at least one token in each, got an empty one");
    for (const int32_t id : breaker) token("dry_sequence_breakers", id, vocab);
  }
  between("top_n_sigma", p.top_n_sigma, 0.0f, 1e6f);
  between("top_k", p.top_k, 0, kMany);
  between("typical_p", p.typical_p, 0.0f, 1.0f);
  between("top_p", p.top_p, 0.0f, 1.0f);
  between("min_p", p.min_p, 0.0f, 1.0f);
  between("xtc_probability", p.xtc_probability, 0.0f, 1.0f);
  between("xtc_threshold", p.xtc_threshold, 0.0f, 1.0f);
  between("temperature", p.temperature, 0.0f, 100.0f);
  between("mirostat_tau", p.mirostat_tau, 0.0f, 100.0f);
  between("mirostat_eta", p.mirostat_eta, 0.0f, 1.0f);

  for (const auto& [id, bias] : p.logit_bias) {
    token("logit_bias", id, vocab);
    if (!(bias <= 1e6f && (bias >= -1e6f || std::isinf(bias))))
      fail("logit_bias: expected -1e6 to 1e6, or -infinity to ban a token, got ", bias, " for token ", id);
  }
  between("top_logprobs", p.top_logprobs, 0, kMaxTopLogprobs);
  if (p.top_logprobs > 0 && !p.logprobs)
    fail("top_logprobs: expected 0 unless logprobs is set, got ", p.top_logprobs);
}

}  // namespace pyllm
