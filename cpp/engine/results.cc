// What comes back of a step: tokens of the rows for which the device can choose them, logits for all others.
// Which it is depends on the row's own request alone, so that neighbours change nothing.
#include <algorithm>

#include "engine/engine.h"

namespace pyllm {

Engine::Results Engine::fetch(const Plan& plan, const Output& output) {
  Results results;
  if (output.states.tensor.rows > 0) results.states = output.states.host();
  const auto rows = static_cast<size_t>(output.logits.tensor.rows);
  if (rows == 0) return results;
  Backend* device = output.logits.backend;
  std::vector<std::optional<Choice>> choices(rows);
  if (device != nullptr && device->chooses()) choices = choices_of(plan, rows);
  const auto known = [](const std::optional<Choice>& choice) { return choice.has_value(); };
  if (!std::all_of(choices.begin(), choices.end(), known)) results.logits = output.logits.host();
  if (!std::any_of(choices.begin(), choices.end(), known)) return results;
  std::vector<Choice> asked;
  for (const auto& choice : choices) asked.push_back(choice.value_or(Choice{}));
  const std::vector<Chosen> chosen = device->choose(output.logits.tensor, asked);
  results.chosen.resize(rows);
  for (size_t r = 0; r < rows; ++r)
    if (choices[r]) results.chosen[r] = chosen[r];
  return results;
}

// [row]; none: it is to be more than one token, or its sampler does what devices cannot.
std::vector<std::optional<Choice>> Engine::choices_of(const Plan& plan, size_t rows) {
  if (edits_.size() < rows) edits_.resize(rows);
  std::vector<std::optional<Choice>> choices(rows);
  for (const Chunk& chunk : plan.chunks) {
    if (chunk.logits != 1 || chunk.samples != 1) continue;
    const auto r = static_cast<size_t>(chunk.first_logits);
    const Sequence& s = *chunk.sequence;
    Active& active = active_.at(s.request);
    Stream& stream = active.streams[s.order.index];
    std::span<const uint32_t> mask;
    if (stream.constraint) {
      // Without a mask the stream fails, whatever is chosen for it.
      if (!masks_->error(stream.job).empty()) {
        choices[r] = Choice{};
        continue;
      }
      mask = masks_->mask(stream.job);
    }
    const auto tokens = std::span<const int32_t>(s.tokens);
    choices[r] = stream.sampler.choice(tokens.first(active.prompt_tokens), tokens.subspan(active.prompt_tokens),
                                       mask, edits_[r]);
  }
  return choices;
}

}  // namespace pyllm
