// Passes over one row of logits [vocab], written so that a compiler vectorizes them.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace pyllm {

struct Candidate {
  int32_t id = 0;
  float logit = 0.0f;
};

// The more probable first; among equals the lower id, so that every order is total.
inline bool more_probable(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

inline constexpr int kChunk = 128;  // logits that share one maximum
inline constexpr float kLowest = std::numeric_limits<float>::lowest();

struct Scan {
  float max = 0.0f;
  int32_t argmax = -1;  // the lowest id that has it; -1: every logit is -infinity
  int32_t bad = -1;     // the first id that holds NaN or +infinity; then the rest means nothing
};

// Fills chunk_max [ceil(vocab / kChunk)].
Scan scan(std::span<const float> logits, std::vector<float>& chunk_max);

// Every logit whose bit in the mask (see mask_source.h) is not set becomes -infinity.
void apply_mask(std::span<const uint32_t> mask, std::span<float> logits);

// Whether the mask has no bit set but those of `ids`.
bool within(std::span<const uint32_t> mask, std::span<const int32_t> ids);

// Appends every candidate with logit >= cut, ids ascending. `chunk_max` must be current.
void gather(std::span<const float> logits, const std::vector<float>& chunk_max, float cut,
            std::vector<Candidate>& out);

// The k most probable with logit >= cut, the most probable first. `buffer` is overwritten.
void gather_top(std::span<const float> logits, const std::vector<float>& chunk_max, float cut, int k,
                std::vector<float>& buffer, std::vector<Candidate>& out);

// exp(x) for x <= 0, within 2e-7 relative; 0 from -87.7 down, where floats lose their precision.
float exp_negative(float x);

// Sum of exp((logit - max) / temperature); also per chunk.
double exp_sum(std::span<const float> logits, float max, float temperature, std::vector<float>& chunk_sum);

// Standard deviation of the logits that are not -infinity.
double deviation(std::span<const float> logits);

}  // namespace pyllm
