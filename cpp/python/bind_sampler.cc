#include <map>
#include <string>

#include "core/error.h"
#include "engine/random.h"
#include "engine/sampler.h"
#include "python/module.h"

namespace pyllm::python {
namespace {

using Setter = void (*)(SamplingParams&, const py::handle&);

template <auto field>
void assign(SamplingParams& params, const py::handle& value) {
  params.*field = value.cast<std::remove_reference_t<decltype(params.*field)>>();
}

struct Field {
  Setter set;
  const char* expected;
};

// Every field by its name, so that a wrong type is told with the field that has it.
const std::map<std::string, Field>& fields() {
  static const char* const integer = "an integer of 32 bits";
  static const char* const number = "a number";
  static const char* const ids = "a list of token ids";
  static const char* const flag = "True or False";
  static const std::map<std::string, Field> table = {
      {"max_tokens", {assign<&SamplingParams::max_tokens>, integer}},
      {"min_tokens", {assign<&SamplingParams::min_tokens>, integer}},
      {"stop_token_ids", {assign<&SamplingParams::stop_token_ids>, ids}},
      {"ignore_eos", {assign<&SamplingParams::ignore_eos>, flag}},
      {"n", {assign<&SamplingParams::n>, integer}},
      {"repetition_penalty", {assign<&SamplingParams::repetition_penalty>, number}},
      {"presence_penalty", {assign<&SamplingParams::presence_penalty>, number}},
      {"frequency_penalty", {assign<&SamplingParams::frequency_penalty>, number}},
      {"penalty_last_n", {assign<&SamplingParams::penalty_last_n>, integer}},
      {"dry_multiplier", {assign<&SamplingParams::dry_multiplier>, number}},
      {"dry_base", {assign<&SamplingParams::dry_base>, number}},
      {"dry_allowed_length", {assign<&SamplingParams::dry_allowed_length>, integer}},
      {"dry_penalty_last_n", {assign<&SamplingParams::dry_penalty_last_n>, integer}},
      {"dry_sequence_breakers", {assign<&SamplingParams::dry_sequence_breakers>, "lists of token ids"}},
      {"top_n_sigma", {assign<&SamplingParams::top_n_sigma>, number}},
      {"top_k", {assign<&SamplingParams::top_k>, integer}},
      {"typical_p", {assign<&SamplingParams::typical_p>, number}},
      {"top_p", {assign<&SamplingParams::top_p>, number}},
      {"min_p", {assign<&SamplingParams::min_p>, number}},
      {"xtc_probability", {assign<&SamplingParams::xtc_probability>, number}},
      {"xtc_threshold", {assign<&SamplingParams::xtc_threshold>, number}},
      {"temperature", {assign<&SamplingParams::temperature>, number}},
      {"mirostat_tau", {assign<&SamplingParams::mirostat_tau>, number}},
      {"mirostat_eta", {assign<&SamplingParams::mirostat_eta>, number}},
      {"logit_bias", {assign<&SamplingParams::logit_bias>, "a dictionary from token id to number"}},
      {"seed", {assign<&SamplingParams::seed>, "an integer from 0 to 2^64 - 1, or None"}},
      {"logprobs", {assign<&SamplingParams::logprobs>, flag}},
      {"top_logprobs", {assign<&SamplingParams::top_logprobs>, integer}},
  };
  return table;
}

SamplingParams make_params(const py::kwargs& values) {
  SamplingParams params;
  for (const auto& [name, value] : values) {
    const auto field = fields().find(name.cast<std::string>());
    if (field == fields().end()) fail("SamplingParams has no field ", name.cast<std::string>());
    try {
      field->second.set(params, value);
    } catch (const py::cast_error&) {
      fail(field->first, ": expected ", field->second.expected, ", got ", py::repr(value).cast<std::string>());
    }
  }
  return params;
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ids = std::vector<int32_t>;

// For tests: a sampler with its own scratch.
struct TestSampler {
  TestSampler(const SamplingParams& params, int64_t vocab, const Ids& eos, int fork)
      : sampler(params, eos, fork) {
    validate(params, vocab);
  }
  Sampler sampler;
  SamplerScratch scratch;
};

std::vector<float> copy(const Floats& logits) { return {logits.data(), logits.data() + logits.size()}; }

}  // namespace

void bind_sampler(py::module_& m) {
  py::class_<SamplingParams>(m, "SamplingParams",
                             "Sampling parameters as the engine takes them: token ids, no text.")
      .def(py::init(&make_params))
      .def("validate", &validate, py::arg("vocab"))
      .def_readonly("max_tokens", &SamplingParams::max_tokens)
      .def_readonly("n", &SamplingParams::n);

  py::module_ testing = m.def_submodule("testing", "Parts of the core one by one, for tests.");
  py::class_<TestSampler>(testing, "Sampler")
      .def(py::init<const SamplingParams&, int64_t, const Ids&, int>(), py::arg("params"), py::arg("vocab"),
           py::arg("eos") = Ids(), py::arg("fork") = 0)
      .def(
          "sample",
          [](TestSampler& self, const Floats& logits, const Ids& prompt, const Ids& generated) {
            std::vector<float> row = copy(logits);
            const Sampled s = self.sampler.sample(row, prompt, generated, self.scratch);
            py::list top;
            for (const TokenLogprob& t : s.top) top.append(py::make_tuple(t.id, t.logprob));
            return py::make_tuple(s.token, s.logprob, top);
          },
          py::arg("logits"), py::arg("prompt") = Ids(), py::arg("generated") = Ids(),
          "(token, logprob, [(id, logprob)]) after prompt and generated.")
      .def(
          "distribution",
          [](TestSampler& self, const Floats& logits, const Ids& prompt, const Ids& generated) {
            std::vector<float> row = copy(logits);
            return self.sampler.distribution(row, prompt, generated, self.scratch);
          },
          py::arg("logits"), py::arg("prompt") = Ids(), py::arg("generated") = Ids(),
          "What sample() would draw from: [(id, probability)], the most probable first.");
  testing.def("philox", &philox, py::arg("counter"), py::arg("key"));
  testing.def("uniforms", &uniforms, py::arg("seed"), py::arg("fork"), py::arg("position"));
}

}  // namespace pyllm::python
