// One sequence's sampler: from logits to the next token.
//
// Order of the chain (llama.cpp's default, after the mask of a constraint): logit bias and bans,
// repetition/frequency/presence penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature,
// draw. Each filter sees the probabilities of what the one before has left. With mirostat on, temperature comes
// first and mirostat replaces the filters from top-n-sigma to XTC. Temperature 0 takes the highest logit after
// DRY, the lowest id among equals.
//
// Log-probabilities are the model's own: natural logarithms of softmax(logits) before anything in this chain.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/choice.h"
#include "engine/logits.h"
#include "engine/penalties.h"
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

// Buffers that the samplers of one thread share; they grow to the vocabulary once.
struct SamplerScratch {
  std::vector<float> chunk_max;       // [chunk]
  std::vector<float> floats;          // [chunk]
  std::vector<Candidate> candidates;  // what the filters have left
  std::vector<LogitEdit> edits;       // what the chain does to single logits, in order
  std::vector<Candidate> changed;     // the tokens it did it to, with the model's own value
};

class Sampler {
 public:
  // `params` must have passed validate(). `eos`: every id that ends a text. `fork`: 0 to n - 1.
  Sampler(const SamplingParams& params, std::span<const int32_t> eos, int fork = 0);

  // The token that follows `prompt` and `generated`; `generated` only grows from call to call.
  // `mask` as mask_source.h has it; empty: any token may come. Where it leaves only tokens that ignore_eos and
  // min_tokens ban, one of those comes all the same. Overwrites `logits` [vocab]. The draw depends on seed,
  // fork and position only: not on a request's neighbours. Throws Error when the logits hold NaN or +infinity,
  // or when nothing is left to choose from.
  Sampled sample(std::span<float> logits, std::span<const int32_t> prompt, std::span<const int32_t> generated,
                 SamplerScratch& scratch, std::span<const uint32_t> mask = {});

  // The same choice as a device can make it, with `edits` as its own; none where only sample() can. Of equal
  // seeds both draw the same token, but where the share that is drawn lies within rounding of a border.
  std::optional<Choice> choice(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                               std::span<const uint32_t> mask, std::vector<LogitEdit>& edits);
  // What a device chose for that; throws as sample() does.
  Sampled accept(const Chosen& chosen, int64_t position, bool has_mask) const;

  // What sample() would draw from: (id, probability), the most probable first. For tests.
  std::vector<std::pair<int32_t, double>> distribution(std::span<float> logits, std::span<const int32_t> prompt,
                                                       std::span<const int32_t> generated,
                                                       SamplerScratch& scratch,
                                                       std::span<const uint32_t> mask = {});

  uint64_t seed() const { return seed_; }

 private:
  // Bias, bans and penalties, in the order in which they apply.
  void collect_edits(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                     std::span<const uint32_t> mask, std::vector<LogitEdit>& edits);
  // Mask and edits. Returns the scan of what results.
  Scan adjust(const Scan& raw, std::span<float> logits, std::span<const int32_t> prompt,
              std::span<const int32_t> generated, std::span<const uint32_t> mask, SamplerScratch& scratch);
  void filter(const Scan& scan, std::span<const float> logits, double xtc_draw, SamplerScratch& scratch);
  int32_t draw(const Scan& scan, std::span<const float> logits, double u, double xtc_draw,
               SamplerScratch& scratch);
  bool filters(double xtc_draw) const;
  bool xtc(double xtc_draw) const;

  SamplingParams params_;
  std::vector<int32_t> eos_;
  uint64_t seed_;
  int fork_;
  float mirostat_mu_;  // surprise in bits above which tokens are cut
  TokenCounts counts_;
  Dry dry_;
};

}  // namespace pyllm
