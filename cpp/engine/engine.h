// Requests in, events out: continuous batching over one model. A step is plan, forward, sample, commit.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/mask_thread.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "model/model.h"

namespace pyllm {

struct EngineOptions {
  int64_t kv_bytes = 0;        // of the KV pool; 0: see kv_size.h
  int64_t context = 0;         // tokens of a sequence at most; 0: what the model was made for
  int max_batch_tokens = 512;  // computed in one step
  int max_sequences = 0;       // running at the same time; 0: 64, or max_batch_tokens where that is less
  bool prefix_cache = true;
  std::vector<int32_t> eos;   // tokens that end a text
  int64_t scratch_bytes = 0;  // of each device's own memory, left for what a step computes
};

struct EngineStats {
  int running = 0;  // sequences
  int waiting = 0;
  int blocks_total = 0;
  int blocks_free = 0;
  int blocks_cached = 0;  // kept for prefix reuse, whether in use or not
  int64_t prefix_hit_tokens = 0;
  int64_t preemptions = 0;
  int64_t steps = 0;
  int64_t tokens_computed = 0;
};

// Everything but step, which one thread at a time may call, may be called from any thread.
class Engine {
 public:
  // Takes the model over once the options have proved right. Throws Error when they do not.
  // masks: where the masks of constrained requests come from; without it there can be none.
  Engine(std::unique_ptr<Model>&& model, const EngineOptions& options,
         std::shared_ptr<MaskSource> masks = nullptr);

  // Queues a request for the next step. Throws Error when it can never run: what was expected and what came.
  void submit(Request request);
  // Ends the request at the next step; one that is unknown or has finished is left alone.
  void cancel(uint64_t id);

  // One step's events. Without work it waits for some, at most `timeout` seconds, or until wake().
  // What goes wrong in a step becomes events of the requests it hits; it throws only for a bad timeout.
  std::vector<Event> step(std::optional<double> timeout = std::nullopt);
  void wake();

  // Keys and values of `tokens` that the prefix cache holds: of at most `count` blocks of kBlockTokens tokens
  // from block `first` on, kv_block_bytes() each; less where it holds less. From any thread, between steps.
  std::vector<std::byte> read_kv(const std::vector<int32_t>& tokens, const std::string& salt, int64_t first,
                                 int64_t count);
  // Puts such bytes into the prefix cache, after the blocks before `first`, as far as there is room. Bytes that
  // the same model did not compute for these very tokens give wrong answers. Returns the blocks of `tokens`
  // that are cached then. Throws Error when bytes and tokens do not fit together.
  int64_t write_kv(const std::vector<int32_t>& tokens, const std::string& salt, int64_t first,
                   std::span<const std::byte> bytes);

  EngineStats stats() const;
  int64_t context() const { return context_; }
  int kv_blocks() const { return kv_blocks_; }
  int64_t kv_block_bytes() const { return kv_block_bytes_; }
  int64_t vocab() const { return vocab_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Stream {
    Sampler sampler;
    std::unique_ptr<MaskSource::Stream> constraint;  // none: any token may come
    int told = 0;                                    // generated tokens that the constraint has got
    size_t job = 0;                                  // of the step: its mask
    bool finished = false;
  };
  struct Active {
    SamplingParams params;
    int prompt_tokens = 0;
    int cached_tokens = 0;
    Clock::time_point arrived;
    std::optional<double> queue_s;
    Order order;
    std::vector<int32_t> next;    // of score_from: the token after each that is computed
    std::vector<Stream> streams;  // [n]
    std::optional<Pool> pool;
  };
  struct Message {
    uint64_t id;
    std::optional<Request> request;  // none: cancel
    Clock::time_point arrived;
  };

  void check(const Request& request) const;
  std::vector<Message> receive(std::optional<double> timeout);
  void start(Request request, Clock::time_point arrived);
  void note_started(const Plan& plan);
  void start_masks(const Plan& plan);
  void end(uint64_t id, Finish finish, const std::string& detail, std::vector<Event>& events);
  static Event& emit(uint64_t id, int index, const Active& active, std::vector<Event>& events);
  void fail_step(const Plan& plan, const std::string& why, std::vector<Event>& events);
  // Of a step, in host memory.
  struct Results {
    Tensor logits, states;                      // logits: where some row has no token
    std::vector<std::optional<Chosen>> chosen;  // [row of logits], by the device; empty: none at all
  };
  Results fetch(const Plan& plan, const Output& output);
  std::vector<std::optional<Choice>> choices_of(const Plan& plan, size_t rows);
  std::vector<Next> sample(const Plan& plan, const Results& results, std::vector<Event>& events);
  void sample_one(const Sequence& sequence, Active& active, std::span<float> logits, const Chosen* chosen,
                  Event& event);
  void deliver(const Chunk& chunk, const Tensor& logits, const Active& active, Event& event);
  static void pool(const Chunk& chunk, const Tensor& states, Active& active, std::vector<Event>& events);
  void retire(const std::vector<Event>& events);
  void count(const Plan& plan);
  void count_blocks();
  const char* full() const { return limit_ < context_ ? "kv_pool" : "context"; }

  const EngineOptions options_;
  const int64_t vocab_;
  const int64_t dim_;
  const int64_t context_;
  const int64_t kv_block_bytes_;
  const int kv_blocks_;
  const int64_t limit_;  // tokens of a sequence: the context, or the pool where that is smaller

  // Of the stepping thread.
  std::mutex stepping_;
  std::mutex computing_;  // not while a step waits for work
  Scheduler scheduler_;
  std::unordered_map<uint64_t, Active> active_;
  SamplerScratch scratch_;
  std::vector<float> row_;                     // [vocab]
  std::vector<std::vector<LogitEdit>> edits_;  // [sample]
  std::unique_ptr<Model> model_;
  std::optional<MaskThread> masks_;

  // Shared with callers.
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Message> inbox_;
  std::unordered_set<uint64_t> ids_;  // submitted and not finished
  bool awake_ = false;
  EngineStats stats_;
};

}  // namespace pyllm
