// Row-wise operations: embeddings, norms, rotary positions, rows taken out.
#include "compare.h"
#include "quant/dequantize.h"

namespace pyllm::compare {

namespace {

Batch batch_of(int rows, int past, Random& random, int vocab) {
  Batch batch;
  for (int i = 0; i < rows; ++i) batch.tokens.push_back(random.below(vocab));
  BatchSequence s;
  s.rows = rows;
  s.past = past;
  for (int i = 0; i < (past + rows + kBlockTokens - 1) / kBlockTokens; ++i) s.blocks.push_back(i);
  batch.sequences.push_back(s);
  for (int i = 0; i < rows; i += 3) batch.sampled_rows.push_back(i);
  return batch;
}

}  // namespace

void compare_rows(Report& report) {
  Random random(7);
  const auto cpu = report.cpu(), cuda = report.cuda();
  for (const TypeInfo& info : kTypes) {
    if (!quant::is_weight_type(info.type)) continue;
    const int64_t cols = info.block == 256 ? 512 : info.block == 32 ? 160 : 70;
    const auto data = random_weights(info.type, 30, cols, random);
    const Batch batch = batch_of(7, 0, random, 30);
    const auto run = [&](Backend& backend, float scale) {
      const auto table = backend.embedding({info.type, 30, cols, data});
      backend.begin(batch);
      const Tensor out = poisoned(backend, 7, cols);
      backend.embed(*table, scale, out);
      return get(backend, out);
    };
    for (const float scale : {1.0f, 7.5f}) {
      const Matrix got = run(*cuda, scale), wanted = run(*cpu, scale);
      report.expect(same_bits(got.row(0), wanted.row(0), 7 * cols), message("embeddings of ", info.name));
    }
  }

  for (const int group : {16, 24, 64, 256, 300}) {
    const Matrix x = random.matrix(5, group * 3, 3.0f);
    std::vector<float> weight;
    for (int i = 0; i < group; ++i) weight.push_back(random.normal());
    const Batch batch = batch_of(5, 0, random, 9);
    const auto run = [&](Backend& backend, bool add) {
      const auto w = backend.vector(weight);
      backend.begin(batch);
      const Tensor in = put(backend, x, 4), out = add ? put(backend, x, 8) : in;  // in place, too
      backend.rms_norm(in, *w, 1e-6f, group, out, add);
      return get(backend, out);
    };
    for (const bool add : {false, true})
      report.expect_close(run(*cuda, add), run(*cpu, add), 1e-6, message("norm of groups of ", group));
  }

  for (const RopePairs pairs : {RopePairs::Halves, RopePairs::Adjacent})
    for (const int dim : {16, 40, 128})
      for (const int past : {0, 70000}) {
        const int n = dim / 2 - (dim == 40 ? 4 : 0), rows = 6;  // some features are left as they are
        std::vector<float> frequency;
        for (int i = 0; i < n; ++i)
          frequency.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(n)));
        const Matrix q = random.matrix(rows, 4 * dim, 2.0f), k = random.matrix(rows, 2 * dim, 2.0f);
        std::vector<float> norm;
        for (int i = 0; i < dim; ++i) norm.push_back(random.normal());
        Batch batch = batch_of(rows, past, random, 9);
        auto& blocks = batch.sequences[0].blocks;
        if (past > 0) std::fill(blocks.begin(), blocks.end(), 0);
        // Turned queries, and - from the first position on - what they find among the stored keys.
        const auto run = [&](Backend& backend, bool normed) {
          const auto f = backend.vector(frequency), w = backend.vector(norm);
          const auto cache = backend.kv_cache({2, 2, dim}, past > 0 ? 1 : static_cast<int>(blocks.size()));
          backend.begin(batch);
          const Tensor table = poisoned(backend, rows, (pairs == RopePairs::Halves ? 2 : 4) * n);
          backend.rope_table(*f, 1.25f, pairs, table);
          const Tensor a = put(backend, q, 8), b = put(backend, k, 4), v = put(backend, k, 0);
          Rotation rotation{table, pairs};
          if (normed) rotation = {table, pairs, w.get(), w.get(), 1e-5f};
          backend.store_kv(*cache, 1, a, b, v, rotation);
          const Tensor y = poisoned(backend, rows, 4 * dim);
          backend.attend(*cache, 1, a, {4, 2, dim, 1.0f / std::sqrt(static_cast<float>(dim)), past > 0 ? 1 : 0},
                         y);
          return std::pair(get(backend, a), get(backend, y));
        };
        for (const bool normed : {false, true}) {
          const auto got = run(*cuda, normed), wanted = run(*cpu, normed);
          const std::string what =
              message("rotary positions, heads of ", dim, " from ", past, normed ? ", normalised" : "");
          report.expect_close(got.first, wanted.first, 1e-6, what);
          report.expect_close(got.second, wanted.second, 1e-3, what + ": attention");
        }
      }

  const Matrix x = random.matrix(10, 37);
  const Batch batch = batch_of(10, 0, random, 9);
  const std::vector<int32_t> other = {9, 0, 9};
  const auto run = [&](Backend& backend, std::span<const int32_t> rows) {
    backend.begin(batch);
    const Tensor in = put(backend, x, 3), out = poisoned(backend, static_cast<int64_t>(rows.size()), 37);
    backend.gather_rows(in, rows, out);
    return get(backend, out);
  };
  report.expect_close(run(*cuda, batch.sampled_rows), run(*cpu, batch.sampled_rows), 0.0, "sampled rows");
  report.expect_close(run(*cuda, other), run(*cpu, other), 0.0, "other rows");
}

}  // namespace pyllm::compare
