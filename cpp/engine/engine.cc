#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "engine/kv_size.h"
#include "engine/logits.h"
#include "engine/memory.h"

namespace pyllm {
namespace {

constexpr int64_t kMostBatchTokens = 1 << 20;
constexpr int64_t kMostLogitsBytes = 64 << 20;  // of one step, for want_logits

EngineOptions checked(EngineOptions options, const Model* model) {
  if (!model) fail("the model already belongs to an engine; load it again for another one");
  const int64_t made_for = model->config().context_length;
  if (options.context < 0 || options.context > made_for)
    fail("context: expected 1 to ", made_for, ", the length that the model was made for (0 means that), got ",
         options.context);
  if (options.context == 0) options.context = made_for;
  if (options.max_batch_tokens < 1 || options.max_batch_tokens > kMostBatchTokens)
    fail("max_batch_tokens: expected 1 to ", kMostBatchTokens, ", got ", options.max_batch_tokens);
  if (options.max_sequences < 0 || options.max_sequences > options.max_batch_tokens)
    fail("max_sequences: expected 1 to ", options.max_batch_tokens,
         ", as each may need one of a step's max_batch_tokens (0: automatic), got ", options.max_sequences);
  if (options.max_sequences == 0) options.max_sequences = std::min(64, options.max_batch_tokens);
  if (options.kv_bytes < 0) fail("kv_bytes: expected a size in bytes (0: automatic), got ", options.kv_bytes);
  if (options.scratch_bytes < 0)
    fail("scratch_bytes: expected a size in bytes (0: none), got ", options.scratch_bytes);
  // A vocabulary may name tokens that the model has no logits for; they never end anything.
  const int64_t vocab = model->config().vocab;
  std::erase_if(options.eos, [&](int32_t id) { return id < 0 || id >= vocab; });
  return options;
}

SchedulerOptions scheduling(const EngineOptions& options, int blocks, int64_t vocab) {
  SchedulerOptions s;
  s.blocks = blocks;
  s.max_batch_tokens = options.max_batch_tokens;
  s.max_sequences = options.max_sequences;
  const int64_t row_bytes = vocab * static_cast<int64_t>(sizeof(float));
  s.max_logits_rows = static_cast<int>(std::clamp<int64_t>(kMostLogitsBytes / row_bytes, 1, kMostBatchTokens));
  s.prefix_cache = options.prefix_cache;
  return s;
}

int pool_blocks(const Model& model, const EngineOptions& options) {
  KvDemand demand{{}, options.context, options.max_sequences, options.kv_bytes};
  for (const KvMemory& memory : model.kv_memory()) {
    const bool own = memory.free_bytes.has_value();
    const int64_t available = own ? *memory.free_bytes - options.scratch_bytes : available_memory();
    demand.rooms.push_back({memory.block_bytes, available, memory.mapped_bytes, own});
  }
  return kv_pool_blocks(demand);
}

std::span<float> row(const Tensor& tensor, int64_t i) {
  return {tensor.row(i), static_cast<size_t>(tensor.cols)};
}

bool contains(const std::vector<int32_t>& list, int32_t id) {
  return std::find(list.begin(), list.end(), id) != list.end();
}

}  // namespace

Engine::Engine(std::unique_ptr<Model>&& model, const EngineOptions& options, std::shared_ptr<MaskSource> masks)
    : options_(checked(options, model.get())),
      vocab_(model->config().vocab),
      dim_(model->config().dim),
      context_(options_.context),
      kv_block_bytes_(model->kv_block_bytes()),
      kv_blocks_(pool_blocks(*model, options_)),
      limit_(std::min(context_, static_cast<int64_t>(kv_blocks_) * kBlockTokens)),
      scheduler_(scheduling(options_, kv_blocks_, vocab_)),
      model_(std::move(model)) {
  model_->allocate_kv(kv_blocks_);
  if (masks) masks_.emplace(std::move(masks), vocab_);
  count({});
}

void Engine::check(const Request& request) const {
  const auto& tokens = request.tokens;
  const int64_t length = static_cast<int64_t>(tokens.size());
  if (tokens.empty()) fail("prompt: expected at least one token, got none");
  for (int64_t i = 0; i < length; ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_)
      fail("prompt: expected token ids from 0 to ", vocab_ - 1, ", got ", tokens[i], " at position ", i);
  if (length > context_)
    fail("prompt: ", length, " tokens are more than the context of ", context_,
         context_ < model_->config().context_length ? "; shorten it, or load the model with a larger context"
                                                    : "; shorten it");
  if (length > limit_)
    fail("prompt: ", length, " tokens are more than the ", limit_, " that the KV pool holds (",
         kv_blocks_ * kv_block_bytes_, " bytes; it would need ",
         scheduler_.blocks_for(length) * kv_block_bytes_, "); shorten it, or give the engine more kv_bytes");
  if (request.want_logits + request.pooling.has_value() + request.score_from.has_value() > 1)
    fail("want_logits, pooling, score_from: expected one of them at most");
  if (request.score_from && (*request.score_from < 1 || *request.score_from >= length))
    fail("score_from: expected 1 to ", length - 1, " for ", length, " tokens, got ", *request.score_from);
  validate(request.params, vocab_);
  if (const size_t given = request.constraint.size(); given > 0) {
    if (!masks_) fail("constraint: this engine was made without a source of masks");
    if (given != static_cast<size_t>(request.params.n))
      fail("constraint: expected one for each of ", request.params.n, " streams, got ", given);
  }
}

void Engine::submit(Request request) {
  check(request);
  const std::lock_guard lock(mutex_);
  const uint64_t id = request.id;
  if (!ids_.insert(id).second) fail("request ", id, " has not finished; expected an id that is not in use");
  inbox_.push_back({id, std::move(request), Clock::now()});
  arrived_.notify_one();
}

void Engine::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  inbox_.push_back({id, std::nullopt, {}});
  arrived_.notify_one();
}

void Engine::wake() {
  const std::lock_guard lock(mutex_);
  awake_ = true;
  arrived_.notify_one();
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  for (const Message& message : inbox_)
    if (message.request) ++stats.waiting;
  return stats;
}

std::vector<std::byte> Engine::read_kv(const std::vector<int32_t>& tokens, const std::string& salt,
                                       int64_t first, int64_t count) {
  if (first < 0 || count < 0) fail("read_kv: expected blocks from 0 up, got ", count, " from ", first);
  const std::lock_guard lock(computing_);
  const HeldPrefix held = scheduler_.hold_prefix(salt, tokens);
  const auto& blocks = held.blocks();
  const int64_t have = static_cast<int64_t>(blocks.size());
  first = std::min(first, have);
  count = std::min(count, have - first);
  std::vector<std::byte> bytes(static_cast<size_t>(count * kv_block_bytes_));
  for (int64_t i = 0; i < count; ++i)
    model_->read_kv(blocks[static_cast<size_t>(first + i)], bytes.data() + i * kv_block_bytes_);
  return bytes;
}

int64_t Engine::write_kv(const std::vector<int32_t>& tokens, const std::string& salt, int64_t first,
                         std::span<const std::byte> bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t most = static_cast<int64_t>(tokens.size()) / kBlockTokens;
  const int64_t count = size / kv_block_bytes_;
  if (size % kv_block_bytes_ != 0)
    fail("write_kv: expected whole blocks of ", kv_block_bytes_, " bytes, got ", size);
  if (first < 0 || first > most || count > most - first)
    fail("write_kv: ", tokens.size(), " tokens have ", most, " whole blocks, got ", count, " from ", first);
  const std::lock_guard lock(computing_);
  int64_t have = 0;
  {
    HeldPrefix held = scheduler_.hold_prefix(salt, tokens);
    have = static_cast<int64_t>(held.blocks().size());
    while (options_.prefix_cache && have >= first && have < first + count) {
      const auto block = held.grow();
      if (!block) break;
      model_->write_kv(*block, bytes.data() + (have - first) * kv_block_bytes_);
      held.keep();
      ++have;
    }
  }
  count_blocks();
  return have;
}

std::vector<Event> Engine::step(std::optional<double> timeout) {
  if (timeout && !(*timeout >= 0.0)) fail("timeout: expected 0 or more seconds, got ", *timeout);
  const std::lock_guard one(stepping_);
  std::vector<Event> events;
  std::vector<Message> messages = receive(timeout);
  const std::lock_guard computing(computing_);
  for (Message& message : messages) {
    if (message.request) {
      start(std::move(*message.request), message.arrived);
    } else {
      end(message.id, Finish::Cancelled, "", events);
    }
  }
  const Plan plan = scheduler_.plan();
  note_started(plan);
  if (!plan.empty()) {
    Output output;
    Results results;
    std::string failure;
    const auto attempt = [&](const auto& part) {
      try {
        part();
      } catch (const std::exception& error) {
        failure = message("the step failed: ", error.what());
      }
    };
    attempt([&] {
      start_masks(plan);
      output = model_->forward(plan.batch);
    });
    if (masks_) masks_->finish();
    if (failure.empty()) attempt([&] { results = fetch(plan, output); });
    if (failure.empty()) {
      scheduler_.commit(plan, sample(plan, results, events));
    } else {
      fail_step(plan, failure, events);
    }
  }
  retire(events);
  count(plan);
  return events;
}

std::vector<Engine::Message> Engine::receive(std::optional<double> timeout) {
  std::unique_lock lock(mutex_);
  if (scheduler_.idle()) {
    const auto ready = [&] { return awake_ || !inbox_.empty(); };
    constexpr double kDay = 86400.0;  // longer ones would overflow the clock
    if (!timeout) {
      arrived_.wait(lock, ready);
    } else {
      arrived_.wait_for(lock, std::chrono::duration<double>(std::min(*timeout, kDay)), ready);
    }
  }
  awake_ = false;
  return std::exchange(inbox_, {});
}

void Engine::start(Request request, Clock::time_point arrived) {
  Sequence s;
  s.request = request.id;
  s.salt = std::move(request.cache_salt);
  s.tokens = std::move(request.tokens);
  const bool full = s.total() >= limit_;
  s.want = full ? Want::Nothing : Want::Tokens;
  if (request.pooling) s.want = *request.pooling == Pooling::Mean ? Want::States : Want::LastState;
  if (request.want_logits || request.score_from) s.want = Want::Logits;
  const bool generates = s.want == Want::Tokens || s.want == Want::Nothing;
  const int n = generates ? request.params.n : 1;
  if (s.want == Want::Tokens) s.streams = n;

  Active active;
  active.params = std::move(request.params);
  active.prompt_tokens = s.total();
  if (request.score_from) {
    s.wanted_from = static_cast<int>(*request.score_from) - 1;
    active.next.assign(s.tokens.begin() + 1, s.tokens.end());
    s.tokens.pop_back();  // nothing asks what comes after it
  }
  active.arrived = arrived;
  if (request.pooling) active.pool.emplace(dim_);
  for (int i = 0; i < n; ++i) {
    Stream& stream = active.streams.emplace_back(Stream{Sampler(active.params, options_.eos, i)});
    if (!request.constraint.empty()) stream.constraint = std::move(request.constraint[i]);
    active.params.seed = active.streams[0].sampler.seed();  // drawn once, where the user gives none
  }
  active.order = scheduler_.add(std::move(s), request.priority);
  active_.emplace(request.id, std::move(active));
}

void Engine::note_started(const Plan& plan) {
  const auto now = Clock::now();
  for (const Chunk& chunk : plan.chunks) {
    Active& active = active_.at(chunk.sequence->request);
    if (!active.queue_s) active.queue_s = std::chrono::duration<double>(now - active.arrived).count();
  }
}

// The masks of what this step samples. Streams that fork from a prompt share their first one.
void Engine::start_masks(const Plan& plan) {
  if (!masks_) return;
  std::vector<MaskSource::Job> jobs;
  for (const Chunk& chunk : plan.chunks) {
    const Sequence& s = *chunk.sequence;
    Active& active = active_.at(s.request);
    for (int i = 0; i < chunk.samples; ++i) {
      Stream& stream = active.streams[s.order.index + i];
      if (!stream.constraint) break;
      if (i == 0) {
        const int told = active.prompt_tokens + std::exchange(stream.told, s.total() - active.prompt_tokens);
        jobs.push_back({stream.constraint.get(), {s.tokens.begin() + told, s.tokens.end()}, ""});
      }
      stream.job = jobs.size() - 1;
    }
  }
  masks_->start(std::move(jobs));
}

Event& Engine::emit(uint64_t id, int index, const Active& active, std::vector<Event>& events) {
  Event& event = events.emplace_back();
  event.id = id;
  event.index = index;
  event.prompt_tokens = active.prompt_tokens;
  event.cached_tokens = active.cached_tokens;
  event.queue_s = active.queue_s.value_or(0.0);
  return event;
}

// Ends every stream of the request that has not finished.
void Engine::end(uint64_t id, Finish finish, const std::string& detail, std::vector<Event>& events) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  Active& active = found->second;
  scheduler_.remove(active.order);
  for (size_t i = 0; i < active.streams.size(); ++i) {
    if (std::exchange(active.streams[i].finished, true)) continue;
    Event& event = emit(id, static_cast<int>(i), active, events);
    event.finish = finish;
    event.detail = detail;
  }
}

void Engine::fail_step(const Plan& plan, const std::string& why, std::vector<Event>& events) {
  std::unordered_set<uint64_t> requests;  // ending one invalidates the plan's sequences
  for (const Chunk& chunk : plan.chunks) requests.insert(chunk.sequence->request);
  for (const uint64_t id : requests) end(id, Finish::Error, why, events);
}

std::vector<Next> Engine::sample(const Plan& plan, const Results& results, std::vector<Event>& events) {
  std::vector<Next> next;
  for (const Chunk& chunk : plan.chunks) {
    const Sequence& s = *chunk.sequence;
    Active& active = active_.at(s.request);
    active.cached_tokens = std::max(active.cached_tokens, s.cached);
    if (chunk.logits > 0 && s.want == Want::Logits)
      deliver(chunk, results.logits, active, emit(s.request, 0, active, events));
    if (chunk.states > 0) pool(chunk, results.states, active, events);
    for (int i = 0; i < chunk.samples; ++i) {
      const auto r = static_cast<size_t>(chunk.first_logits);
      const Chosen* chosen = results.chosen.empty() || !results.chosen[r] ? nullptr : &*results.chosen[r];
      std::span<float> last;
      if (chosen == nullptr) last = row(results.logits, chunk.first_logits);
      if (i + 1 < chunk.samples) {  // the sampler overwrites its logits, and forks share them
        row_.assign(last.begin(), last.end());
        last = row_;
      }
      Event& event = emit(s.request, s.order.index + i, active, events);
      sample_one(s, active, last, chosen, event);
      next.push_back({event.token, event.finish != Finish::None});
    }
    if (chunk.last && s.want == Want::Nothing)
      for (size_t i = 0; i < active.streams.size(); ++i) {
        Event& event = emit(s.request, static_cast<int>(i), active, events);
        event.finish = Finish::Length;
        event.detail = full();
      }
  }
  return next;
}

void Engine::sample_one(const Sequence& s, Active& active, std::span<float> logits, const Chosen* chosen,
                        Event& event) {
  const auto tokens = std::span<const int32_t>(s.tokens);
  const auto prompt = tokens.first(active.prompt_tokens), generated = tokens.subspan(active.prompt_tokens);
  const SamplingParams& params = active.params;
  Stream& stream = active.streams[event.index];
  try {
    std::span<const uint32_t> mask;
    if (stream.constraint) {
      if (const std::string& error = masks_->error(stream.job); !error.empty()) fail("constraint: ", error);
      mask = masks_->mask(stream.job);
    }
    Sampled sampled = chosen != nullptr ? stream.sampler.accept(*chosen, s.total(), !mask.empty())
                                        : stream.sampler.sample(logits, prompt, generated, scratch_, mask);
    event.token = sampled.token;
    event.logprob = sampled.logprob;
    event.top_logprobs = std::move(sampled.top);
  } catch (const std::exception& error) {
    event.finish = Finish::Error;
    event.detail = error.what();
    return;
  }
  if (contains(options_.eos, event.token) || contains(params.stop_token_ids, event.token)) {
    event.finish = Finish::Stop;
  } else if (static_cast<int64_t>(generated.size()) + 1 >= params.max_tokens) {
    event.finish = Finish::Length;
    event.detail = "max_tokens";
  } else if (s.total() + 1 >= limit_) {
    event.finish = Finish::Length;
    event.detail = full();
  }
}

void Engine::deliver(const Chunk& chunk, const Tensor& logits, const Active& active, Event& event) {
  const bool score = !active.next.empty();
  if (!score) event.logits.reserve(static_cast<size_t>(chunk.logits * vocab_));
  for (int i = 0; i < chunk.logits; ++i) {
    const std::span<float> values = row(logits, chunk.first_logits + i);
    const int position = chunk.sequence->computed + chunk.rows - chunk.logits + i;
    const Scan found = scan(values, scratch_.chunk_max);
    if (const int32_t bad = found.bad; bad >= 0) {
      event.logits = {};
      event.scores = {};
      event.finish = Finish::Error;
      event.detail =
          message("position ", position, ": the model's logits hold ", values[bad], " (token ", bad,
                  "), expected finite numbers; the model file may be damaged, or its values overflow");
      return;
    }
    if (score) {
      const double log_total = found.max + std::log(exp_sum(values, found.max, 1.0f, scratch_.floats));
      event.scores.push_back(static_cast<float>(values[active.next[position]] - log_total));
    } else {
      event.logits.insert(event.logits.end(), values.begin(), values.end());
    }
  }
  event.logits_rows = score ? 0 : chunk.logits;
  if (chunk.last) {
    event.finish = Finish::Length;
    event.detail = "max_tokens";
  }
}

void Engine::pool(const Chunk& chunk, const Tensor& states, Active& active, std::vector<Event>& events) {
  for (int i = 0; i < chunk.states; ++i) active.pool->add(row(states, chunk.first_state + i));
  if (!chunk.last) return;
  Event& event = emit(chunk.sequence->request, 0, active, events);
  try {
    event.embedding = active.pool->direction();
    event.finish = Finish::Stop;
  } catch (const std::exception& error) {
    event.finish = Finish::Error;
    event.detail = error.what();
  }
}

// Forgets the requests whose last stream has finished.
void Engine::retire(const std::vector<Event>& events) {
  for (const Event& event : events) {
    if (event.finish == Finish::None) continue;
    const auto found = active_.find(event.id);
    if (found == active_.end()) continue;
    auto& streams = found->second.streams;
    streams[event.index].finished = true;
    if (!std::all_of(streams.begin(), streams.end(), [](const Stream& s) { return s.finished; })) continue;
    scheduler_.remove(found->second.order);  // what is left when the logits of a prompt went wrong
    active_.erase(found);
    const std::lock_guard lock(mutex_);
    ids_.erase(event.id);
  }
}

void Engine::count_blocks() {
  const std::lock_guard lock(mutex_);
  stats_.blocks_free = scheduler_.pool().free();
  stats_.blocks_cached = scheduler_.cache().size();
}

void Engine::count(const Plan& plan) {
  count_blocks();
  const std::lock_guard lock(mutex_);
  stats_.running = static_cast<int>(scheduler_.running().size());
  stats_.waiting = static_cast<int>(scheduler_.waiting().size());
  stats_.blocks_total = kv_blocks_;
  stats_.prefix_hit_tokens = scheduler_.hit_tokens();
  stats_.preemptions = scheduler_.preemptions();
  stats_.steps += !plan.empty();
  stats_.tokens_computed += static_cast<int64_t>(plan.batch.tokens.size());
}

}  // namespace pyllm
