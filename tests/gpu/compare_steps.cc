// Decoding steps of a small model: padded to buckets, replayed as graphs, from one batch to the next; and how
// many kernels one takes.
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "compare.h"
#include "gguf/reader.h"
#include "model/model.h"
#include "shape_file.h"

#ifdef PYLLM_EMULATED
#include "backend/cuda/step_graphs.h"
#include "cuda_runtime.h"
#endif

namespace pyllm::compare {

namespace {

constexpr int kStreams = 5, kBlocksEach = 2;

struct SmallModel {
  LlamaShape shape{.layers = 4, .dim = 256, .ffn = 512, .heads = 4, .kv_heads = 2, .vocab = 96};
  std::string path;
  std::unique_ptr<gguf::File> file;

  SmallModel()
      : path((std::filesystem::temp_directory_path() / message("pyllm-steps-", getpid(), ".gguf")).string()) {
    write_llama(shape, path);
    file = std::make_unique<gguf::File>(path);
  }
  ~SmallModel() { std::filesystem::remove(path); }

  std::unique_ptr<Model> on(std::unique_ptr<Backend> backend) const {
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(backend));
    const std::vector<int> layers(static_cast<size_t>(shape.layers), 0);
    auto model = load_model(*file, std::make_shared<Placement>(std::move(backends), layers, 0, 0));
    model->allocate_kv(kStreams * kBlocksEach);
    return model;
  }
};

int token_of(int stream, int position) { return (stream * 31 + position * 7 + 3) % 96; }

// Rows [past, past + rows) of each of these streams; every row's logits.
Batch batch_of(const std::vector<int>& streams, const std::vector<int>& past, int rows) {
  Batch batch;
  for (const int s : streams) {
    BatchSequence sequence;
    sequence.first_row = static_cast<int>(batch.tokens.size());
    sequence.rows = rows;
    sequence.past = past[static_cast<size_t>(s)];
    for (int b = 0; b < kBlocksEach; ++b) sequence.blocks.push_back(b * kStreams + s);
    batch.sequences.push_back(sequence);
    for (int i = 0; i < rows; ++i) {
      batch.sampled_rows.push_back(static_cast<int>(batch.tokens.size()));
      batch.tokens.push_back(token_of(s, sequence.past + i));
    }
  }
  return batch;
}

// Streams that step by step decode beside each other; the rows of each beside `wanted`, its whole sequence's.
void decode(Report& report, Model& model, const std::vector<Matrix>& wanted,
            const std::vector<std::vector<int>>& steps, std::vector<int>& past, const std::string& what) {
  for (const std::vector<int>& streams : steps) {
    const Tensor logits = model.forward(batch_of(streams, past, 1)).logits.host();
    bool same = logits.rows == static_cast<int64_t>(streams.size());
    for (size_t i = 0; i < streams.size() && same; ++i) {
      const auto s = static_cast<size_t>(streams[i]);
      same &= same_bits(logits.row(static_cast<int64_t>(i)), wanted[s].row(past[s]++), logits.cols);
    }
    report.expect(same, message(what, ", ", streams.size(), " streams"));
  }
}

#ifdef PYLLM_EMULATED
void expect_buckets(Report& report) {
  for (int rows = 1; rows <= 2 * cuda::kMostGraphRows; ++rows) {
    const int bucket = cuda::row_bucket(rows);
    report.expect(bucket >= rows && cuda::row_bucket(bucket) == bucket && bucket <= std::max(8, rows + 31) &&
                      bucket <= std::max(2 * rows, 1) && cuda::row_bucket(rows + 1) >= bucket,
                  message("bucket of ", rows, " rows"));
    const int chunks = cuda::chunk_bucket(rows);
    report.expect(chunks >= rows && cuda::chunk_bucket(chunks) == chunks && 2 * chunks <= 3 * rows + 1,
                  message("bucket of ", rows, " chunks"));
  }
}

struct Counts {
  int64_t launches = emulator::launches, captures = emulator::captures, replays = emulator::replays;
};
#endif

}  // namespace

void compare_steps(Report& report) {
  const SmallModel small;
  const int positions = kBlocksEach * kBlockTokens;
  std::vector<int> all, start(kStreams, 0);
  for (int s = 0; s < kStreams; ++s) all.push_back(s);
  // A prompt of the whole sequence of each stream: no step of this kind is padded or becomes a graph.
  std::vector<Matrix> wanted;
  {
    const auto model = small.on(report.cuda()), cpu = small.on(report.cpu());
    for (const int s : all) {
      const Batch batch = batch_of({s}, start, positions);
      const auto copied = [](const Tensor& logits) {
        Matrix m(logits.rows, logits.cols);
        for (int64_t r = 0; r < m.rows; ++r) std::copy_n(logits.row(r), m.cols, m.row(r));
        return m;
      };
      wanted.push_back(copied(model->forward(batch).logits.host()));
      report.expect_close(wanted.back(), copied(cpu->forward(batch).logits.host()), 2e-2,
                          message("prompt of stream ", s));
    }
  }

  // Two sizes of one bucket in turn, another bucket, and the first one again.
  const std::vector<std::vector<int>> steps = {{0, 1, 2, 3}, {0, 1, 2},    {3, 2, 1, 0}, {4},    {4},
                                               {4},          {0, 1, 2, 3}, all,          {3, 0}, {0, 2, 4, 1}};
  const auto model = small.on(report.cuda());
  std::vector<int> past = start;
  decode(report, *model, wanted, steps, past, "steps as graphs");

#ifdef PYLLM_EMULATED
  expect_buckets(report);
  {
    const Counts before;
    decode(report, *model, wanted, {{1, 2, 3}}, past, "one more step");
    const Counts after;
    report.expect(after.replays == before.replays + 1 && after.captures == before.captures,
                  "a known step is replayed");
    // Norm or gate with quantization, products of q, k, v; of gate and up; positions with the cache's keys and
    // values: each one launch. Where v is of another type it takes its own.
    constexpr int kAround = 5, kLayer = 10, kMixedLayers = 2;
    const int64_t most = kAround + kLayer * small.shape.layers + kMixedLayers;
    report.expect(after.launches - before.launches == most,
                  message("a step takes ", after.launches - before.launches, " kernels, expected ", most));
  }
  {  // A prompt between, for which the scratch moves: the graph of before must not run again.
    const Counts before;
    const int at = past[0];
    Batch prompt = batch_of({0}, past, positions - at);
    model->forward(prompt).logits.host();
    std::vector<int> again = past;
    decode(report, *model, wanted, {{1, 2, 3}, {1, 2, 3}, {1, 2, 3}}, again, "after a prompt");
    report.expect(emulator::captures >= before.captures && emulator::replays > before.replays,
                  "steps after a prompt become graphs");
  }
  {  // A driver that makes no graphs.
    emulator::refuses_graphs = true;
    const Counts before;
    past = start;
    const auto plain = small.on(report.cuda());
    decode(report, *plain, wanted, {{0, 1}, {0, 1}, {1, 0}, {0, 1, 2}}, past, "steps without graphs");
    report.expect(emulator::replays == before.replays, "no graphs where the driver makes none");
    emulator::refuses_graphs = false;
  }
#endif
}

}  // namespace pyllm::compare
