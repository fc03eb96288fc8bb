// The speed table, as JSON: steps of Llama 8B's shape (Q4_K_M, random weights) on a GPU, beside the bandwidth
// of a copy in the same run. A step is a whole forward and its tokens, the most probable ones, on the host.
// Decoding is measured again without CUDA graphs, and without kernels that overlap (PYLLM_CUDA_OFF).
//   bench [--device N] [--layers N] [--folder FOR_THE_MODEL] [--seconds PER_ROW]
// What to expect of an H100, as reckoned before it was measured (its memory: 3.0 TB/s counting a copy's reads
// and writes): the weights' 4.6 GB take 1.55 ms. Products of 1-4 columns issue about 60 instructions a warp for
// 296 bytes of Q4_K, of 5-8 about 85: 65 and 95 % of the issue slots at that speed, so 70-80 % of the limit is
// the most. A token takes 341 kernels (10 a layer, 11 where v is of another type, more where attention is
// split): one by one they keep the host busy for 1.2 to 1.7 ms, 330-430 tokens/s. As a graph about 1.5 us of
// each is not hidden: 0.5 ms, so 470-500 tokens/s; overlapped 0.5-1 us, 500-540. 32 streams: products of two
// tiles are bound by instructions, 4-5 ms, attention 2 ms. 256 streams: tokens in place of logits save 131 MB a
// step, 3-5 ms. Prompts: instructions again, 100-190 TOPS of 8-bit products.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "backend/cuda/memory.h"
#include "compare.h"
#include "gguf/reader.h"
#include "model/model.h"
#include "model/placement.h"
#include "shape_file.h"

namespace pyllm::compare {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bytes read and written per second.
double copy_bandwidth() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const cuda::DeviceMemory from(kBytes, "a copy"), to(kBytes, "a copy");
  cudaStream_t stream;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  double best = 0.0;
  for (int i = 0; i < 5; ++i) {
    cuda::check(cudaStreamSynchronize(stream), "a copy");
    const auto start = Clock::now();
    for (int k = 0; k < 8; ++k)
      cuda::check(cudaMemcpyAsync(to.as<char>(), from.as<char>(), kBytes, cudaMemcpyDeviceToDevice, stream),
                  "a copy");
    cuda::check(cudaStreamSynchronize(stream), "a copy");
    best = std::max(best, 8.0 * 2.0 * static_cast<double>(kBytes) / seconds_since(start));
  }
  cudaStreamDestroy(stream);
  return best;
}

// One row of the table: `streams` sequences, `rows` tokens each, that have `past` behind them.
struct Work {
  const char* name;
  int streams, rows, past;
  bool advances;  // decoding: the next step comes one position later
};

constexpr Work kWork[] = {
    {"decode, 1 stream", 1, 1, 64, true},
    {"decode, 8 streams", 8, 1, 64, true},
    {"decode, 32 streams at 1k", 32, 1, 1024, true},
    {"decode, 256 streams, 128 in, half of 512 out", 256, 1, 384, true},
    {"prompt of 2048", 1, 2048, 0, false},
    {"first token for 230 tokens", 1, 230, 0, false},
};
constexpr int kMostSteps = 64;

Batch batch_of(const Work& work, int step, int blocks_each, Random& random, int vocab) {
  Batch batch;
  const int past = work.past + (work.advances ? step : 0);
  for (int s = 0; s < work.streams; ++s) {
    BatchSequence sequence;
    sequence.first_row = s * work.rows;
    sequence.rows = work.rows;
    sequence.past = past;
    for (int b = 0; b * kBlockTokens < past + work.rows; ++b) sequence.blocks.push_back(s * blocks_each + b);
    batch.sequences.push_back(sequence);
    for (int i = 0; i < work.rows; ++i) batch.tokens.push_back(random.below(vocab));
    batch.sampled_rows.push_back((s + 1) * work.rows - 1);
  }
  return batch;
}

void measure(Model& model, const Work& work, const char* without, int blocks, double seconds, bool last) {
  Random random(3);
  const int blocks_each = blocks / work.streams;
  std::vector<double> times;
  double all = 0.0;
  for (int step = 0; step < kMostSteps && (all < seconds || step < 6); ++step) {
    const Batch batch = batch_of(work, step, blocks_each, random, static_cast<int>(model.config().vocab));
    const auto start = Clock::now();
    const Result logits = model.forward(batch).logits;
    const std::vector<Choice> greedy(batch.sampled_rows.size());
    const std::vector<Chosen> chosen = logits.backend->choose(logits.tensor, greedy);
    const double time = seconds_since(start);
    if (chosen[0].status != ChoiceStatus::Chosen) fail(work.name, ": a logit is not finite");
    if (step < 3) continue;  // takes memory, loads kernels
    times.push_back(time);
    all += time;
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf(
      "    {\"work\": \"%s\", \"without\": \"%s\", \"steps\": %zu, \"step_ms\": {\"median\": %.3f, \"min\": "
      "%.3f, \"max\": %.3f}, "
      "\"tokens_per_second\": %.1f}%s\n",
      work.name, without, times.size(), 1e3 * median, 1e3 * times.front(), 1e3 * times.back(),
      work.streams * work.rows / median, last ? "" : ",");
  std::fflush(stdout);
}

int run(int device, LlamaShape shape, const std::string& folder, double seconds) {
  std::vector<cuda::DeviceInfo> devices(64);
  char error[1024] = "";
  const int count = pyllm_cuda_devices(devices.data(), 64, error, sizeof error);
  if (count <= device) {
    std::fprintf(stderr, "no such GPU: %s\n", error[0] != '\0' ? error : "none is here");
    return 1;
  }
  cuda::check(cudaSetDevice(device), "the device");
  const double copy = copy_bandwidth();

  const std::string path = (std::filesystem::path(folder) / "pyllm-bench-8b.gguf").string();
  auto start = Clock::now();
  const int64_t bytes = write_llama(shape, path);
  const double writing = seconds_since(start);
  const gguf::File file(path);
  const int blocks =
      256 * ((384 + kMostSteps + 1) / kBlockTokens + 1);  // the most that a row of the table needs
  const auto load = [&](const char* without) {
    setenv("PYLLM_CUDA_OFF", without, 1);
    const BackendOptions options{};
    std::vector<std::unique_ptr<Backend>> backends;
    backends.emplace_back(pyllm_cuda_backend(device, &options, error, sizeof error));
    if (!backends[0]) fail(error);
    auto model = load_model(
        file, std::make_shared<Placement>(std::move(backends),
                                          std::vector<int>(static_cast<size_t>(shape.layers), 0), 0, 0));
    model->allocate_kv(blocks);
    return model;
  };
  start = Clock::now();
  auto model = load("");
  const double loading = seconds_since(start);

  const cuda::DeviceInfo& info = devices[static_cast<size_t>(device)];
  std::printf("{\n  \"device\": \"%s\", \"compute_capability\": \"%d.%d\", \"driver\": %d, \"toolkit\": %d,\n",
              info.name, info.major, info.minor, info.driver, info.toolkit);
  std::printf(
      "  \"copy_gbps\": %.1f, \"weights_bytes\": %lld, \"layers\": %d, \"write_s\": %.1f, \"load_s\": %.1f,\n",
      copy / 1e9, static_cast<long long>(bytes), shape.layers, writing, loading);
  std::printf("  \"decode_limit_tokens_per_second\": %.1f,\n  \"results\": [\n",
              copy / static_cast<double>(bytes));
  for (const Work& work : kWork) measure(*model, work, "", blocks, seconds, false);
  for (const char* without : {"overlap", "graphs,overlap"}) {
    model.reset();
    model = load(without);
    for (int i = 0; i < 2; ++i)
      measure(*model, kWork[i], without, blocks, seconds, i == 1 && without[0] == 'g');
  }
  std::printf("  ]\n}\n");
  std::filesystem::remove(path);
  return 0;
}

}  // namespace
}  // namespace pyllm::compare

int main(int argc, char** argv) {
  int device = 0;
  pyllm::compare::LlamaShape shape;
  std::string folder = std::filesystem::temp_directory_path().string();
  double seconds = 2.0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string arg = argv[i];
    if (arg == "--device") device = std::atoi(argv[i + 1]);
    if (arg == "--layers") shape.layers = std::atoi(argv[i + 1]);
    if (arg == "--folder") folder = argv[i + 1];
    if (arg == "--seconds") seconds = std::atof(argv[i + 1]);
  }
  try {
    return pyllm::compare::run(device, shape, folder, seconds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
