// One sequence's sampler: from logits to the next token.
//
// Order of the chain (llama.cpp's default): logit bias and bans, repetition/frequency/presence penalties, DRY,
// top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, draw. Each filter sees the probabilities of what
// the one before has left. With mirostat on, temperature comes first and mirostat replaces the filters from
// top-n-sigma to XTC. Temperature 0 takes the highest logit after DRY, the lowest id among equals.
//
// Log-probabilities are the model's own: natural logarithms of softmax(logits) before anything in this chain.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/sampling_params.h"

namespace pyllm {

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

struct Sampled {
  int32_t token = 0;
  float logprob = 0.0f;           // 0 unless params.logprobs
  std::vector<TokenLogprob> top;  // params.top_logprobs entries, the most probable first
};

struct Candidate {
  int32_t id = 0;
  float logit = 0.0f;
};

// Buffers that samplers on one thread share; they grow to the vocabulary once.
struct SamplerScratch {
  std::vector<float> chunk_max;  // [vocab / chunk]
  std::vector<float> floats;     // [vocab / chunk] or [candidate]
  std::vector<Candidate> candidates;
  std::vector<Candidate> changed;  // tokens whose logits the chain changed, with the model's own value
  std::vector<int32_t> matches;    // [token of the context], DRY
};

class Sampler {
 public:
  // `params` must have passed validate(). `eos`: every id that ends a text. `fork`: 0 to n - 1.
  Sampler(const SamplingParams& params, int64_t vocab, std::span<const int32_t> eos, int fork = 0);

  // The token that follows `prompt` and `generated`. Overwrites `logits` [vocab].
  // The draw depends on seed, fork and position only, so that a request's tokens do not depend on its
  // neighbours. Throws Error when the logits hold NaN or +infinity, or when nothing is left to choose from.
  Sampled sample(std::span<float> logits, std::span<const int32_t> prompt, std::span<const int32_t> generated,
                 SamplerScratch& scratch);

  // What sample() would draw from: (id, probability), the most probable first. For tests.
  std::vector<std::pair<int32_t, float>> distribution(std::span<float> logits, std::span<const int32_t> prompt,
                                                      std::span<const int32_t> generated,
                                                      SamplerScratch& scratch);

  uint64_t seed() const { return seed_; }

 private:
  SamplingParams params_;
  int64_t vocab_;
  std::vector<int32_t> ends_;  // end-of-text ids
  uint64_t seed_;
  int fork_;
  float mirostat_mu_;
};

}  // namespace pyllm
