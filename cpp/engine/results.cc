// What comes back of a step: tokens where the device can choose them all, logits where it cannot.
#include "engine/engine.h"

namespace pyllm {

Engine::Results Engine::fetch(const Plan& plan, const Output& output) {
  Results results;
  if (output.states.tensor.rows > 0) results.states = output.states.host();
  if (output.logits.tensor.rows == 0) return results;
  results.chosen = choose(plan, output.logits);
  if (results.chosen.empty()) results.logits = output.logits.host();
  return results;
}

// A token for every row; empty: some row is to be more than one token, or its sampler does what devices cannot.
std::vector<Chosen> Engine::choose(const Plan& plan, const Result& logits) {
  if (logits.backend == nullptr || !logits.backend->chooses()) return {};
  const auto rows = static_cast<size_t>(logits.tensor.rows);
  if (edits_.size() < rows) edits_.resize(rows);
  std::vector<Choice> choices;
  for (const Chunk& chunk : plan.chunks) {
    if (chunk.logits == 0) continue;
    if (chunk.logits != 1 || chunk.samples != 1) return {};
    const Sequence& s = *chunk.sequence;
    Active& active = active_.at(s.request);
    Stream& stream = active.streams[s.order.index];
    std::span<const uint32_t> mask;
    if (stream.constraint) {
      // Without a mask the stream fails, whatever is chosen for it.
      if (!masks_->error(stream.job).empty()) {
        choices.emplace_back();
        continue;
      }
      mask = masks_->mask(stream.job);
    }
    const auto tokens = std::span<const int32_t>(s.tokens);
    const auto choice = stream.sampler.choice(
        tokens.first(active.prompt_tokens), tokens.subspan(active.prompt_tokens), mask, edits_[choices.size()]);
    if (!choice) return {};
    choices.push_back(*choice);
  }
  return logits.backend->choose(logits.tensor, choices);
}

}  // namespace pyllm
