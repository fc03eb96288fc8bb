// The KV cache and attention over it: whole sequences, in chunks, several at once, and blocks copied on write.
#include <algorithm>

#include "compare.h"

namespace pyllm::compare {

namespace {

struct Case {
  int tokens, heads, kv_heads, dim, window;
  float softcap;
  bool quick;
};

constexpr Case kCases[] = {
    {1, 1, 1, 16, 0, 0.0f, true},     {40, 6, 2, 24, 0, 0.0f, true},    {300, 4, 4, 64, 0, 0.0f, false},
    {530, 3, 1, 40, 0, 30.0f, false}, {600, 8, 2, 16, 100, 0.0f, true}, {290, 2, 1, 256, 5, 0.0f, false},
    {280, 7, 1, 80, 0, 0.0f, false},  {70, 20, 1, 32, 0, 0.0f, true},   {270, 8, 2, 128, 0, 0.0f, false},
};

struct Inputs {
  Case shape;
  Matrix q, k, v;
};

// Rows [from, to) of a sequence that has `from` rows behind it.
BatchSequence part(int first_row, int from, int to, const std::vector<int32_t>& blocks) {
  BatchSequence s;
  s.first_row = first_row;
  s.rows = to - from;
  s.past = from;
  s.blocks.assign(blocks.begin(), blocks.begin() + (to + kBlockTokens - 1) / kBlockTokens);
  return s;
}

Matrix rows_of(const Matrix& x, int from, int to) {
  Matrix m(to - from, x.cols);
  std::copy_n(x.row(from), m.values.size(), m.row(0));
  return m;
}

// Attention of every token of the sequence, `chunk` tokens at a time, from token `start` on only.
Matrix attend(Backend& backend, const Inputs& in, KvCache& cache, const std::vector<int32_t>& blocks, int chunk,
              int start) {
  const Case& c = in.shape;
  const AttentionShape shape = {c.heads,  c.kv_heads, c.dim, 1.0f / std::sqrt(static_cast<float>(c.dim)),
                                c.window, c.softcap};
  Matrix out(c.tokens - start, in.q.cols);
  for (int from = start; from < c.tokens; from += chunk) {
    const int to = std::min(from + chunk, c.tokens);
    Batch batch;
    batch.tokens.assign(static_cast<size_t>(to - from), 0);
    batch.sequences.push_back(part(0, from, to, blocks));
    backend.begin(batch);
    backend.copy_blocks(cache);
    const Tensor q = put(backend, rows_of(in.q, from, to), 4), k = put(backend, rows_of(in.k, from, to)),
                 v = put(backend, rows_of(in.v, from, to), 8);
    backend.store_kv(cache, 1, {}, k, v, {});
    const Tensor y = poisoned(backend, q.rows, q.cols);
    backend.attend(cache, 1, q, shape, y);
    const Matrix part = get(backend, y);
    std::copy_n(part.row(0), part.values.size(), out.row(from - start));
  }
  return out;
}

}  // namespace

void compare_attention(Report& report) {
  for (const KvElement element : {KvElement::Half, KvElement::Bits8})
    for (const Case& c : kCases) {
      if ((report.quick && !c.quick) || (report.smoke && c.tokens > 100)) continue;
      Random random(static_cast<uint32_t>(c.tokens));
      const Inputs in = {c, random.matrix(c.tokens, c.heads * c.dim),
                         random.matrix(c.tokens, c.kv_heads * c.dim),
                         random.matrix(c.tokens, c.kv_heads * c.dim)};
      const int count = (c.tokens + kBlockTokens - 1) / kBlockTokens;
      std::vector<int32_t> blocks;
      for (int i = 0; i < count + 3; ++i) blocks.push_back(i);
      for (int i = count + 2; i > 0; --i)
        std::swap(blocks[static_cast<size_t>(i)], blocks[static_cast<size_t>(random.below(i + 1))]);
      const BackendOptions options = {.kv_type = {element, element}};
      const std::string what = message("attention, ", c.tokens, " tokens, heads ", c.heads, "/", c.kv_heads,
                                       " of ", c.dim, element == KvElement::Half ? ", f16" : ", q8_0");
      const auto run = [&](Backend& backend, int chunk) {
        const auto cache = backend.kv_cache({2, c.kv_heads, c.dim}, count + 3);
        return attend(backend, in, *cache, blocks, chunk, 0);
      };
      const auto cpu = report.cpu(options), cuda = report.cuda(options);
      const Matrix wanted = run(*cpu, 1 << 30), whole = run(*cuda, 1 << 30);
      report.expect_close(whole, wanted, element == KvElement::Half ? 1e-3 : 2e-3, what);
      for (const int chunk : {7, 64})
        if (c.tokens > chunk)
          report.expect(
              same_bits(run(*cuda, chunk).row(0), whole.row(0), static_cast<int64_t>(whole.values.size())),
              message(what, ": in chunks of ", chunk));
      if (c.tokens < 100)
        report.expect(same_bits(run(*cuda, 1).row(0), whole.row(0), static_cast<int64_t>(whole.values.size())),
                      what + ": token by token");

      // Several sequences in one batch, one of which goes on in copies of another's blocks.
      if (c.tokens < 40) continue;
      const auto cache = cuda->kv_cache({2, c.kv_heads, c.dim}, 2 * count + 3);
      attend(*cuda, in, *cache, blocks, 1 << 30, 0);
      std::vector<int32_t> copies;
      for (int i = 0; i < count; ++i) copies.push_back(count + 3 + i);
      Batch batch;
      const int last = c.tokens - 1, middle = c.tokens - 19;
      for (int i = 0; i < count; ++i)
        batch.copies.emplace_back(blocks[static_cast<size_t>(i)], copies[static_cast<size_t>(i)]);
      batch.tokens.assign(20, 0);
      batch.sequences = {part(0, last, c.tokens, copies), part(1, middle, c.tokens, blocks)};
      cuda->begin(batch);
      cuda->copy_blocks(*cache);
      const auto both = [&](const Matrix& x) {
        Matrix m(20, x.cols);
        std::copy_n(x.row(last), x.cols, m.row(0));
        std::copy_n(x.row(middle), 19 * x.cols, m.row(1));
        return m;
      };
      const Tensor q = put(*cuda, both(in.q)), k = put(*cuda, both(in.k)), v = put(*cuda, both(in.v));
      cuda->store_kv(*cache, 1, {}, k, v, {});
      const Tensor y = poisoned(*cuda, 20, q.cols);
      cuda->attend(
          *cache, 1, q,
          {c.heads, c.kv_heads, c.dim, 1.0f / std::sqrt(static_cast<float>(c.dim)), c.window, c.softcap}, y);
      const Matrix got = get(*cuda, y);
      report.expect(same_bits(got.row(0), whole.row(last), whole.cols) &&
                        same_bits(got.row(1), whole.row(middle), 19 * whole.cols),
                    what + ": two sequences in a batch");
    }
}

}  // namespace pyllm::compare
