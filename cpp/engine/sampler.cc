#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "engine/random.h"

namespace pyllm {
namespace {

using Candidates = std::vector<Candidate>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float best_logit(const Candidates& list) {
  float best = list[0].logit;
  for (const Candidate& c : list) best = std::max(best, c.logit);
  return best;
}

double weight(float logit, float max, float temperature) { return exp_negative((logit - max) / temperature); }

double weights(const Candidates& list, float max, float temperature) {
  double total = 0.0;
  for (const Candidate& c : list) total += weight(c.logit, max, temperature);
  return total;
}

// Gathers until the list holds the share `top_p` of all probability, or all that min_p can leave: a few hundred
// candidates, seldom many. Returns the total weight of all logits.
double gather_mass(std::span<const float> logits, float max, float top_p, float min_p, SamplerScratch& s) {
  const double total = exp_sum(logits, max, 1.0f, s.floats);
  const float enough = min_p > 0.0f ? -std::log(min_p) : 128.0f;
  for (float reach = std::min(8.0f, enough);; reach = std::min(2.0f * reach, enough)) {
    s.candidates.clear();
    gather(logits, s.chunk_max, std::max(max - reach, kLowest), s.candidates);
    if (reach >= enough || weights(s.candidates, max, 1.0f) >= top_p * total) return total;
  }
}

// Keeps those whose surprise is nearest to the entropy, up to the probability typical_p.
void keep_typical(Candidates& list, float typical_p) {
  const float max = best_logit(list);
  const double total = weights(list, max, 1.0f);
  double mean = 0.0;  // of logit - max; entropy = log(total) - mean
  for (const Candidate& c : list)
    if (const double w = weight(c.logit, max, 1.0f); w > 0.0) mean += w / total * (c.logit - max);
  const auto oddity = [&](const Candidate& c) {
    return std::fabs(mean - (static_cast<double>(c.logit) - max));
  };
  const auto odder = [&](const Candidate& a, const Candidate& b) {
    const double x = oddity(a), y = oddity(b);
    return x > y || (x == y && a.id > b.id);
  };
  // A heap: only those that are kept get sorted. They gather at the end of the list, the most typical last.
  std::make_heap(list.begin(), list.end(), odder);
  double kept = 0.0;
  auto rest = list.end();
  while (rest != list.begin()) {
    std::pop_heap(list.begin(), rest, odder);
    --rest;
    kept += weight(rest->logit, max, 1.0f);
    if (kept >= typical_p * total) break;
  }
  list.erase(list.begin(), rest);
  std::reverse(list.begin(), list.end());
}

// `total`: the weight, relative to the best logit, of all that the filter chooses from.
void keep_top_p(Candidates& list, float top_p, double total) {
  const float max = best_logit(list);
  double kept = 0.0;
  // Sorted piece by piece, each as long as all before: most often the first is enough.
  for (size_t first = 0, end = 256; first < list.size(); first = end, end *= 2) {
    end = std::min(end, list.size());
    if (end < list.size())
      std::nth_element(list.begin() + first, list.begin() + end, list.end(), more_probable);
    std::sort(list.begin() + first, list.begin() + end, more_probable);
    for (size_t i = first; i < end; ++i) {
      kept += weight(list[i].logit, max, 1.0f);
      if (kept >= top_p * total) {
        list.resize(i + 1);
        return;
      }
    }
  }
}

void keep_min_p(Candidates& list, float min_p) {
  const float cut = best_logit(list) + std::log(min_p);
  std::erase_if(list, [&](const Candidate& c) { return c.logit < cut; });
}

// Removes every top choice but the least probable one.
void exclude_top_choices(Candidates& list, float threshold) {
  const float max = best_logit(list);
  const double bar = threshold * weights(list, max, 1.0f);
  const auto top = [&](const Candidate& c) { return weight(c.logit, max, 1.0f) >= bar; };
  const Candidate* last = nullptr;
  for (const Candidate& c : list)
    if (top(c) && (!last || more_probable(*last, c))) last = &c;
  if (!last) return;
  const int32_t spared = last->id;
  std::erase_if(list, [&](const Candidate& c) { return c.id != spared && top(c); });
}

// The token at the share `u` of all weight, without a list: whole chunks first.
int32_t draw_from_all(const Scan& scan, std::span<const float> logits, float temperature, double u,
                      std::vector<float>& chunk_sum) {
  double rest = u * exp_sum(logits, scan.max, temperature, chunk_sum);
  size_t c = 0;
  for (; c + 1 < chunk_sum.size() && rest >= chunk_sum[c]; ++c) rest -= chunk_sum[c];
  int32_t last = scan.argmax;  // rounding may leave a crumb of `rest` behind the chunk's last token
  const size_t end = std::min(logits.size(), (c + 1) * kChunk);
  for (size_t i = c * kChunk; i < end; ++i) {
    const double w = weight(logits[i], scan.max, temperature);
    if (w <= 0.0) continue;
    last = static_cast<int32_t>(i);
    rest -= w;
    if (rest < 0.0) break;
  }
  return last;
}

const Candidate& draw_from(const Candidates& list, float temperature, double u) {
  const float max = best_logit(list);
  double rest = u * weights(list, max, temperature);
  const Candidate* last = &list[0];
  for (const Candidate& c : list) {
    const double w = weight(c.logit, max, temperature);
    if (w <= 0.0) continue;
    last = &c;
    rest -= w;
    if (rest < 0.0) break;
  }
  return *last;
}

// Why no token can be chosen.
[[noreturn]] void refuse(ChoiceStatus status, int64_t position, int32_t token, float value, bool has_mask) {
  switch (status) {
    case ChoiceStatus::BadLogit:
      fail("position ", position, ": the model's logits hold ", value, " (token ", token,
           "), expected finite numbers; the model file may be damaged, or its values overflow");
    case ChoiceStatus::NoLogits:
      fail("position ", position,
           ": every one of the model's logits is -infinity; the model file may be damaged");
    case ChoiceStatus::Overflow:
      fail("position ", position, ": logit_bias and penalties overflow the logit of token ", token,
           "; use smaller values");
    default:
      fail("position ", position, ": logit_bias, min_tokens", has_mask ? ", the constraint" : "",
           " and ignore_eos leave no token to choose");
  }
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, std::span<const int32_t> eos, int fork)
    : params_(params),
      eos_(eos.begin(), eos.end()),
      seed_(params.seed ? *params.seed : fresh_seed()),
      fork_(fork),
      mirostat_mu_(2.0f * params.mirostat_tau),
      dry_(params) {}

void Sampler::collect_edits(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                            std::span<const uint32_t> mask, std::vector<LogitEdit>& edits) {
  const SamplingParams& p = params_;
  edits.clear();
  for (const auto& [id, bias] : p.logit_bias) edits.push_back({id, 1.0f, bias});
  const bool too_early = static_cast<int64_t>(generated.size()) < p.min_tokens;
  std::vector<int32_t> banned;
  if (p.ignore_eos || too_early) banned = eos_;
  if (too_early) banned.insert(banned.end(), p.stop_token_ids.begin(), p.stop_token_ids.end());
  if (!banned.empty() && (mask.empty() || !within(mask, banned)))
    for (const int32_t id : banned) edits.push_back({id, 1.0f, -kInfinity});

  if (p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f) {
    counts_.update(prompt, generated, p.penalty_last_n);
    for (const auto& [id, count] : counts_.counts()) {
      const float often = p.presence_penalty + static_cast<float>(count) * p.frequency_penalty;
      edits.push_back({id, p.repetition_penalty, count > 0 ? -often : 0.0f});
    }
  }
  if (dry_.on())
    for (const auto& [id, penalty] : dry_.penalties(prompt, generated)) edits.push_back({id, 1.0f, -penalty});
}

Scan Sampler::adjust(const Scan& raw, std::span<float> logits, std::span<const int32_t> prompt,
                     std::span<const int32_t> generated, std::span<const uint32_t> mask,
                     SamplerScratch& scratch) {
  if (!mask.empty()) apply_mask(mask, logits);
  collect_edits(prompt, generated, mask, scratch.edits);
  scratch.changed.clear();
  for (const LogitEdit& edit : scratch.edits) {
    float& logit = logits[static_cast<size_t>(edit.id)];
    scratch.changed.push_back({edit.id, logit});
    logit = edit.of(logit);
  }
  return mask.empty() && scratch.edits.empty() ? raw : scan(logits, scratch.chunk_max);
}

std::optional<Choice> Sampler::choice(std::span<const int32_t> prompt, std::span<const int32_t> generated,
                                      std::span<const uint32_t> mask, std::vector<LogitEdit>& edits) {
  const SamplingParams& p = params_;
  const auto [u, xtc_draw] = uniforms(seed_, fork_, prompt.size() + generated.size());
  const bool draws = p.temperature > 0.0f;
  if (p.top_logprobs > 0 ||
      (draws && (p.mirostat_tau > 0.0f || p.top_n_sigma > 0.0f || p.typical_p < 1.0f || xtc(xtc_draw))))
    return std::nullopt;
  collect_edits(prompt, generated, mask, edits);
  std::stable_sort(edits.begin(), edits.end(),
                   [](const LogitEdit& a, const LogitEdit& b) { return a.id < b.id; });
  Choice choice{.temperature = p.temperature, .u = u, .logprob = p.logprobs, .edits = edits, .mask = mask};
  choice.top_k = p.top_k;
  choice.top_p = p.top_p;
  if (p.min_p > 0.0f) choice.log_min_p = std::log(p.min_p);
  return choice;
}

bool Sampler::xtc(double xtc_draw) const {
  // Above one half no two tokens can be top choices.
  return params_.xtc_threshold <= 0.5f && xtc_draw < params_.xtc_probability;
}

bool Sampler::filters(double xtc_draw) const {
  const SamplingParams& p = params_;
  return p.mirostat_tau > 0.0f || p.top_n_sigma > 0.0f || p.top_k > 0 || p.typical_p < 1.0f || p.top_p < 1.0f ||
         p.min_p > 0.0f || xtc(xtc_draw);
}

void Sampler::filter(const Scan& scan, std::span<const float> logits, double xtc_draw, SamplerScratch& s) {
  const SamplingParams& p = params_;
  Candidates& list = s.candidates;
  list.clear();
  if (p.mirostat_tau > 0.0f) {
    // -log2 of a token's probability <= mu, solved for its logit.
    const double total = exp_sum(logits, scan.max, p.temperature, s.floats);
    const double cut = scan.max + p.temperature * (std::log(total) - mirostat_mu_ * std::log(2.0));
    gather(logits, s.chunk_max, std::clamp(static_cast<float>(cut), kLowest, scan.max), list);
    return;
  }

  float cut = kLowest;
  double total = -1.0;
  if (p.top_n_sigma > 0.0f)
    cut = std::max(cut, static_cast<float>(scan.max - p.top_n_sigma * deviation(logits)));
  if (p.top_k > 0) {
    gather_top(logits, s.chunk_max, cut, p.top_k, s.floats, list);
  } else if (p.typical_p >= 1.0f && p.top_p < 1.0f && cut == kLowest) {
    total = gather_mass(logits, scan.max, p.top_p, p.min_p, s);
  } else {
    if (p.typical_p >= 1.0f && p.top_p >= 1.0f && p.min_p > 0.0f)
      cut = std::max(cut, scan.max + std::log(p.min_p));
    gather(logits, s.chunk_max, cut, list);
  }
  if (p.typical_p < 1.0f) keep_typical(list, p.typical_p);
  if (p.top_p < 1.0f) keep_top_p(list, p.top_p, total >= 0.0 ? total : weights(list, best_logit(list), 1.0f));
  if (p.min_p > 0.0f) keep_min_p(list, p.min_p);
  if (xtc(xtc_draw)) exclude_top_choices(list, p.xtc_threshold);
}

int32_t Sampler::draw(const Scan& scan, std::span<const float> logits, double u, double xtc_draw,
                      SamplerScratch& scratch) {
  const SamplingParams& p = params_;
  if (p.temperature == 0.0f) return scan.argmax;
  if (!filters(xtc_draw)) return draw_from_all(scan, logits, p.temperature, u, scratch.floats);
  filter(scan, logits, xtc_draw, scratch);
  const Candidate& chosen = draw_from(scratch.candidates, p.temperature, u);
  if (p.mirostat_tau > 0.0f) {
    const float max = best_logit(scratch.candidates);
    const double share =
        weight(chosen.logit, max, p.temperature) / weights(scratch.candidates, max, p.temperature);
    mirostat_mu_ -= p.mirostat_eta * static_cast<float>(-std::log2(share) - p.mirostat_tau);
  }
  return chosen.id;
}

Sampled Sampler::accept(const Chosen& chosen, int64_t position, bool has_mask) const {
  if (chosen.status != ChoiceStatus::Chosen)
    refuse(chosen.status, position, chosen.token, chosen.value, has_mask);
  return {chosen.token, params_.logprobs ? chosen.logprob : 0.0f, {}};
}

Sampled Sampler::sample(std::span<float> logits, std::span<const int32_t> prompt,
                        std::span<const int32_t> generated, SamplerScratch& scratch,
                        std::span<const uint32_t> mask) {
  const auto position = static_cast<int64_t>(prompt.size() + generated.size());
  const Scan raw = scan(logits, scratch.chunk_max);
  if (raw.bad >= 0) refuse(ChoiceStatus::BadLogit, position, raw.bad, logits[raw.bad], !mask.empty());
  if (raw.argmax < 0) refuse(ChoiceStatus::NoLogits, position, -1, 0.0f, !mask.empty());

  Sampled result;
  double log_total = 0.0;
  if (params_.logprobs) {
    log_total = raw.max + std::log(exp_sum(logits, raw.max, 1.0f, scratch.floats));
    if (params_.top_logprobs > 0) {
      scratch.candidates.clear();
      gather_top(logits, scratch.chunk_max, kLowest, params_.top_logprobs, scratch.floats, scratch.candidates);
      for (const Candidate& c : scratch.candidates)
        result.top.push_back({c.id, static_cast<float>(c.logit - log_total)});
    }
  }

  const Scan adjusted = adjust(raw, logits, prompt, generated, mask, scratch);
  if (adjusted.bad >= 0) refuse(ChoiceStatus::Overflow, position, adjusted.bad, 0.0f, !mask.empty());
  if (adjusted.argmax < 0) refuse(ChoiceStatus::NothingLeft, position, -1, 0.0f, !mask.empty());
  const auto [u, xtc_draw] = uniforms(seed_, fork_, prompt.size() + generated.size());
  result.token = draw(adjusted, logits, u, xtc_draw, scratch);

  if (params_.logprobs) {
    float own = logits[static_cast<size_t>(result.token)];
    for (const Candidate& c : scratch.changed)
      if (c.id == result.token) {
        own = c.logit;
        break;
      }
    result.logprob = static_cast<float>(own - log_total);
  }
  return result;
}

std::vector<std::pair<int32_t, double>> Sampler::distribution(std::span<float> logits,
                                                              std::span<const int32_t> prompt,
                                                              std::span<const int32_t> generated,
                                                              SamplerScratch& scratch,
                                                              std::span<const uint32_t> mask) {
  const Scan adjusted = adjust(scan(logits, scratch.chunk_max), logits, prompt, generated, mask, scratch);
  if (adjusted.argmax < 0) fail("nothing to choose from");
  if (params_.temperature == 0.0f) return {{adjusted.argmax, 1.0}};
  const double xtc_draw = uniforms(seed_, fork_, prompt.size() + generated.size())[1];
  filter(adjusted, logits, xtc_draw, scratch);
  Candidates& list = scratch.candidates;
  std::sort(list.begin(), list.end(), more_probable);
  const double total = weights(list, list[0].logit, params_.temperature);
  std::vector<std::pair<int32_t, double>> result;
  for (const Candidate& c : list)
    result.emplace_back(c.id, weight(c.logit, list[0].logit, params_.temperature) / total);
  return result;
}

}  // namespace pyllm
