// Whole models, token by token.
#include <algorithm>
#include <filesystem>

#include "compare.h"
#include "gguf/reader.h"
#include "model/model.h"
#include "model/placement.h"

namespace pyllm::compare {

namespace {

std::unique_ptr<Model> load(const gguf::File& file, std::unique_ptr<Backend> backend) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(backend));
  const std::vector<int> layers(static_cast<size_t>(layer_count(file)), 0);
  auto model = load_model(file, std::make_shared<Placement>(std::move(backends), layers, 0, 0));
  model->allocate_kv(16);
  return model;
}

// Logits of all tokens, `chunk` at a time; two sequences side by side where `twice`.
Matrix logits(Model& model, const std::vector<int32_t>& tokens, int chunk, bool twice) {
  const int n = static_cast<int>(tokens.size()), vocab = static_cast<int>(model.config().vocab);
  Matrix all(n, vocab);
  for (int from = 0; from < n; from += chunk) {
    const int rows = std::min(chunk, n - from);
    Batch batch;
    for (int s = 0; s < (twice ? 2 : 1); ++s) {
      BatchSequence sequence;
      sequence.first_row = s * rows;
      sequence.rows = rows;
      sequence.past = from;
      for (int i = 0; i < (from + rows + kBlockTokens - 1) / kBlockTokens; ++i)
        sequence.blocks.push_back(2 * i + s);
      batch.sequences.push_back(sequence);
      for (int i = 0; i < rows; ++i) {
        const int token = tokens[static_cast<size_t>(from + i)];
        batch.tokens.push_back(s == 0 ? token : (token * 7 + 1) % vocab);
        batch.sampled_rows.push_back(s * rows + i);
      }
    }
    const Tensor out = model.forward(batch).logits.host();
    for (int i = 0; i < rows; ++i) std::copy_n(out.row(i), vocab, all.row(from + i));
  }
  return all;
}

void compare_model(Report& report, const std::string& path) {
  const gguf::File file(path);
  const std::string name = std::filesystem::path(path).filename().string();
  const auto cpu = load(file, report.cpu()), cuda = load(file, report.cuda());
  Random random(5);
  std::vector<int32_t> tokens;
  for (int i = 0; i < (report.quick ? 19 : 37); ++i)
    tokens.push_back(random.below(static_cast<int>(cpu->config().vocab)));
  const Matrix wanted = logits(*cpu, tokens, 64, false), whole = logits(*cuda, tokens, 64, false);
  report.expect_close(whole, wanted, 5e-3, name);
  const auto same = [&](const Matrix& x) {
    return same_bits(x.row(0), whole.row(0), static_cast<int64_t>(whole.values.size()));
  };
  report.expect(same(logits(*cuda, tokens, 1, false)), name + ": token by token");
  report.expect(same(logits(*cuda, tokens, 10, true)), name + ": in chunks, beside another sequence");
}

}  // namespace

void compare_models(Report& report, const std::string& path) {
  if (!std::filesystem::is_directory(path)) return compare_model(report, path);
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".gguf") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  if (files.empty()) fail(path, ": no .gguf files");
  for (const std::string& file : files) {
    const std::string stem = std::filesystem::path(file).stem().string();
    if (report.quick && stem != "llama") continue;
    compare_model(report, file);
  }
}

}  // namespace pyllm::compare
