// For tests of the engine: a model whose forward is a Python function.
#include <stdexcept>

#include "python/loaded_model.h"
#include "python/module.h"

namespace pyllm::python {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

class FakeModel : public Model {
 public:
  FakeModel(py::function forward, const ModelConfig& config, int64_t block_bytes)
      : forward_(std::move(forward)), block_bytes_(block_bytes) {
    config_ = config;
  }
  ~FakeModel() override {
    py::gil_scoped_acquire gil;
    forward_ = py::function();
    logits_ = Floats();
  }

  std::vector<KvMemory> kv_memory() const override { return {{block_bytes_, 0, std::nullopt}}; }
  void allocate_kv(int) override {}
  void read_kv(int32_t, std::byte*) override { throw std::runtime_error("the fake model has no bytes"); }
  void write_kv(int32_t, const std::byte*) override { throw std::runtime_error("the fake model has no bytes"); }

  Output forward(const Batch& batch) override {
    if (!batch.state_rows.empty()) throw std::runtime_error("the fake model has no hidden states");
    py::gil_scoped_acquire gil;
    try {
      py::list sequences;
      for (const BatchSequence& s : batch.sequences)
        sequences.append(py::make_tuple(s.first_row, s.rows, s.past, s.blocks));
      logits_ =
          Floats::ensure(forward_(batch.tokens, sequences, batch.sampled_rows, batch.copies).attr("copy")());
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(error.what());
    }
    const auto rows = static_cast<int64_t>(batch.sampled_rows.size());
    if (logits_.size() != rows * config_.vocab) throw std::runtime_error("logits of another size");
    return {{nullptr, {logits_.mutable_data(), rows, config_.vocab, config_.vocab}}, {}};
  }

 private:
  py::function forward_;
  int64_t block_bytes_;
  Floats logits_;  // [sampled_rows, vocab] of the last step
};

}  // namespace

void bind_fake_model(py::module_& m) {
  py::module_ testing = m.attr("testing");
  testing.def(
      "fake_model",
      [](py::function forward, int64_t vocab, int64_t context_length, int64_t kv_block_bytes) {
        const ModelConfig config{"fake", context_length, vocab, 1, 1};
        return LoadedModel(nullptr, std::make_unique<FakeModel>(std::move(forward), config, kv_block_bytes));
      },
      py::arg("forward"), py::arg("vocab"), py::arg("context_length"), py::arg("kv_block_bytes") = 1024,
      "A Model that asks forward(tokens, [(first_row, rows, past, blocks)], sampled_rows, copies) for its "
      "logits.");
}

}  // namespace pyllm::python
