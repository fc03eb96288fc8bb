// Tokens chosen by the device beside the sampler's, of the same seeds.
#include <algorithm>

#include "compare.h"
#include "engine/mask_source.h"
#include "engine/sampler.h"

namespace pyllm::compare {

namespace {

struct Row {
  SamplingParams params;
  std::vector<int32_t> prompt, generated;
  std::vector<uint32_t> mask;
  std::vector<float> logits;
};

SamplingParams params_of(int kind, Random& random, int vocab) {
  SamplingParams p;
  p.seed = random.bits();
  p.temperature = kind % 4 == 0 ? 0.0f : 0.3f * static_cast<float>(1 + random.below(5));
  p.logprobs = kind % 3 == 0;
  p.top_k = kind & 2 ? 1 + random.below(50) : 0;
  p.top_p = kind & 4 ? 0.5f + 0.1f * static_cast<float>(random.below(5)) : 1.0f;
  p.min_p = kind & 8 ? 0.02f * static_cast<float>(1 + random.below(4)) : 0.0f;
  if (kind & 16) {
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.25f;
    p.frequency_penalty = 0.5f;
    p.dry_multiplier = 0.8f;
    for (int i = 0; i < 3; ++i) p.logit_bias[random.below(vocab)] = i == 0 ? -INFINITY : 2.5f;
  }
  return p;
}

Row row_of(int kind, Random& random, int vocab) {
  Row row{params_of(kind, random, vocab), {}, {}, {}, {}};
  for (int i = 0; i < 20; ++i) row.prompt.push_back(random.below(std::min(vocab, 30)));
  for (int i = 0; i < 8; ++i) row.generated.push_back(random.below(std::min(vocab, 30)));
  for (int i = 0; i < vocab; ++i) {
    const float x = 3.0f * random.normal();
    row.logits.push_back(kind % 5 == 1 ? std::round(x) : x);  // many equal ones
    if (kind % 7 == 2 && i % 3 == 0) row.logits.back() = -INFINITY;
  }
  if (kind % 6 == 3) {
    row.mask.assign(static_cast<size_t>(mask_words(vocab)), 0);
    for (int i = 0; i < vocab; ++i)
      if (random.below(3) != 0 || i == vocab - 1) row.mask[static_cast<size_t>(i / 32)] |= 1u << i % 32;
  }
  return row;
}

const std::vector<int32_t> kEos = {0};

std::vector<Chosen> choose(Backend& backend, std::vector<Row>& rows) {
  const auto vocab = static_cast<int64_t>(rows[0].logits.size()), count = static_cast<int64_t>(rows.size());
  Matrix logits(count, vocab);
  std::vector<std::vector<LogitEdit>> edits(rows.size());
  std::vector<Choice> choices;
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    std::copy(row.logits.begin(), row.logits.end(), logits.row(static_cast<int64_t>(i)));
    Sampler sampler(row.params, kEos);
    choices.push_back(*sampler.choice(row.prompt, row.generated, row.mask, edits[i]));
  }
  Batch batch;
  batch.tokens.assign(rows.size(), 0);
  backend.begin(batch);
  return backend.choose(put(backend, logits, 3), choices);
}

bool agree(const Row& row, const Chosen& chosen) {
  SamplerScratch scratch;
  Sampler sampler(row.params, kEos);
  std::vector<float> logits = row.logits;
  const auto position = static_cast<int64_t>(row.prompt.size() + row.generated.size());
  std::string wanted_error, error;
  Sampled wanted, got;
  try {
    wanted = sampler.sample(logits, row.prompt, row.generated, scratch, row.mask);
  } catch (const Error& thrown) {
    wanted_error = thrown.what();
  }
  try {
    got = sampler.accept(chosen, position, !row.mask.empty());
  } catch (const Error& thrown) {
    error = thrown.what();
  }
  return error == wanted_error &&
         (!error.empty() || (got.token == wanted.token && std::fabs(got.logprob - wanted.logprob) < 1e-4f));
}

}  // namespace

void compare_choices(Report& report) {
  Random random(11);
  const auto cuda = report.cuda();
  int drawn = 0, different = 0;
  for (const int vocab : {1, 33, 1000, 2600}) {
    if (report.smoke && vocab != 33) continue;
    for (int first = 0; first < (report.quick ? 32 : 256); first += 8) {
      std::vector<Row> rows;
      for (int i = 0; i < 8; ++i) rows.push_back(row_of(first + i, random, vocab));
      const std::vector<Chosen> chosen = choose(*cuda, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const bool same = agree(rows[i], chosen[i]);
        if (rows[i].params.temperature == 0.0f)
          report.expect(same, message("the best of ", vocab, ", kind ", first + static_cast<int>(i)));
        ++drawn;
        different += !same;
      }
      std::vector<Row> alone = {rows[5]};
      report.expect(choose(*cuda, alone)[0].token == chosen[5].token, "a row alone");
    }
  }
  // A draw may fall within rounding of the border between two tokens.
  report.expect(different * 500 <= drawn, message(different, " of ", drawn, " choices are not the sampler's"));

  std::vector<Row> wrong;
  for (int kind = 0; kind < 5; ++kind) wrong.push_back(row_of(0, random, 90));
  wrong[0].logits[70] = NAN;
  wrong[1].logits[3] = INFINITY;
  wrong[2].logits.assign(90, -INFINITY);
  wrong[3].logits[4] = 3e38f;
  wrong[3].params.logit_bias = {{4, 1e6f}};
  wrong[3].params.repetition_penalty = 0.5f;
  wrong[3].prompt.push_back(4);
  wrong[4].mask.assign(3, 0);
  const std::vector<Chosen> refused = choose(*cuda, wrong);
  for (size_t i = 0; i < wrong.size(); ++i)
    report.expect(refused[i].status != ChoiceStatus::Chosen && agree(wrong[i], refused[i]),
                  message("logits that leave no choice, ", i));
}

}  // namespace pyllm::compare
