// How a request's tokens are chosen and when it ends. Every default is neutral: plain sampling at
// temperature 1.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <unordered_map>
#include <vector>

namespace pyllm {

struct SamplingParams {
  // When it ends.
  int32_t max_tokens = std::numeric_limits<int32_t>::max();  // >= 1; the context ends it in any case
  int32_t min_tokens = 0;                                    // until then no end-of-text or stop token is drawn
  std::vector<int32_t> stop_token_ids;                       // end the request like an end-of-text token
  bool ignore_eos = false;                                   // end-of-text tokens are never drawn
  int32_t n = 1;                                             // sequences forked from the prompt

  // Filters, in the order of use. See sampler.h.
  float repetition_penalty = 1.0f;  // > 1 discourages tokens of the prompt and of the answer (arXiv:1909.05858)
  float presence_penalty = 0.0f;    // subtracted once from the logits of tokens of the answer
  float frequency_penalty = 0.0f;   // subtracted once per occurrence in the answer
  int32_t penalty_last_n = -1;      // tokens that the three penalties look back; -1: all, 0: none
  float dry_multiplier = 0.0f;      // 0: off
  float dry_base = 1.75f;
  int32_t dry_allowed_length = 2;                           // repeats shorter than this are free
  int32_t dry_penalty_last_n = -1;                          // as penalty_last_n
  std::vector<std::vector<int32_t>> dry_sequence_breakers;  // token sequences over which no repeat is followed
  float top_n_sigma = 0.0f;      // keep logits within n standard deviations of the best; 0: off
  int32_t top_k = 0;             // keep the k most probable; 0: off
  float typical_p = 1.0f;        // locally typical sampling (arXiv:2202.00666); 1: off
  float top_p = 1.0f;            // keep the smallest set with this probability; 1: off
  float min_p = 0.0f;            // keep what has this share of the best's probability; 0: off
  float xtc_probability = 0.0f;  // chance that the top choices but the last are excluded; 0: off
  float xtc_threshold = 0.1f;    // probability that makes a token a top choice
  float temperature = 1.0f;      // 0: greedy
  float mirostat_tau = 0.0f;     // target surprise in bits (arXiv:2007.14966, version 2); 0: off
  float mirostat_eta = 0.1f;     // its learning rate

  std::unordered_map<int32_t, float> logit_bias;  // added to the logits; -infinity bans the token
  std::optional<uint64_t> seed;                   // absent: a fresh one for each request

  bool logprobs = false;     // of the chosen token
  int32_t top_logprobs = 0;  // and of this many most probable ones; needs logprobs
};

inline constexpr int32_t kMaxTopLogprobs = 1024;
inline constexpr int32_t kMaxForks = 1024;

// Throws Error naming the field, what it may be, and the value it has.
void validate(const SamplingParams& params, int64_t vocab);

}  // namespace pyllm
