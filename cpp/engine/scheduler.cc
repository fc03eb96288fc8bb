#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

namespace pyllm {

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), pool_(options.blocks), cache_(pool_, options.prefix_cache) {
  assert(options.max_sequences > 0 && options.max_sequences <= options.max_batch_tokens);
  assert(options.max_logits_rows > 0);
}

Order Scheduler::add(Sequence sequence, int priority) {
  assert(!sequence.tokens.empty() && blocks_for(sequence.total()) <= pool_.size());
  const Order order{priority, ++arrivals_, 0};
  sequence.order = order;
  waiting_.emplace(order, std::move(sequence));
  return order;
}

void Scheduler::remove(const Order& request) {
  const Order last{request.priority, request.arrival, std::numeric_limits<int>::max()};
  for (Sequences* sequences : {&running_, &waiting_}) {
    const auto begin = sequences->lower_bound(request), end = sequences->upper_bound(last);
    for (auto it = begin; it != end; ++it) drop(it->second);
    sequences->erase(begin, end);
  }
}

namespace {
// One row and it can go on: never kept waiting by a long prompt. The row always fits the budget.
bool decodes(const Sequence& s) { return s.pending() == 1 && s.want != Want::Logits; }
}  // namespace

Plan Scheduler::plan() {
  Plan plan;
  // Whoever waits and comes before a running one takes its place.
  while (!waiting_.empty() && !running_.empty() && waiting_.begin()->first < running_.rbegin()->first)
    if (!admit()) preempt_last();
  for (auto it = running_.begin(); it != running_.end(); ++it)
    if (!hold(it->second, plan.batch)) break;  // it was the last one and is no longer running

  Budget left{options_.max_batch_tokens, options_.max_logits_rows};
  for (auto& [order, s] : running_) {
    s.granted = 0;
    if (s.pending() > 1) credit(s, attach_prefix(s));
    if (decodes(s)) grant(s, 1, left);
  }
  while (left.tokens > 0 && admit())
    if (Sequence& s = running_.rbegin()->second; decodes(s)) grant(s, 1, left);
  share_out(left);

  Batch& batch = plan.batch;
  for (auto& [order, s] : running_) {
    if (s.granted == 0) continue;
    Chunk chunk;
    chunk.sequence = &s;
    chunk.rows = s.granted;
    chunk.first_logits = static_cast<int>(batch.sampled_rows.size());
    chunk.first_state = static_cast<int>(batch.state_rows.size());
    chunk.last = s.granted == s.pending();
    const int fresh = std::max(0, s.computed + s.granted - s.delivered());
    if (s.want == Want::Logits) chunk.logits = fresh;
    if (s.want == Want::States) chunk.states = fresh;
    if (s.want == Want::LastState && chunk.last) chunk.states = 1;
    if (s.want == Want::Tokens && chunk.last) chunk.logits = 1, chunk.samples = s.streams;
    const int row = static_cast<int>(batch.tokens.size()), end = row + s.granted;
    batch.sequences.push_back({row, s.granted, s.computed, s.blocks});
    batch.tokens.insert(batch.tokens.end(), s.tokens.begin() + s.computed,
                        s.tokens.begin() + s.computed + s.granted);
    for (int i = end - chunk.logits; i < end; ++i) batch.sampled_rows.push_back(i);
    for (int i = end - chunk.states; i < end; ++i) batch.state_rows.push_back(i);
    plan.chunks.push_back(chunk);
  }
  return plan;
}

// What decoding leaves of the budget is for prompts: half of it in their order, so that the first gets on, half
// for those that lack the fewest tokens, so that a short one does not wait for a long one. A smaller priority
// still goes before everything else.
void Scheduler::share_out(Budget& left) {
  std::vector<Sequence*> prompts;
  for (auto& [order, s] : running_)
    if (!decodes(s)) prompts.push_back(&s);
  Budget first{(left.tokens + 1) / 2, left.logits_rows};
  left.tokens -= first.tokens;
  for (Sequence* s : prompts) grant(*s, first.tokens, first);
  left.tokens += first.tokens;
  left.logits_rows = first.logits_rows;
  std::stable_sort(prompts.begin(), prompts.end(), [](const Sequence* a, const Sequence* b) {
    const int lacks_a = a->pending() - a->granted, lacks_b = b->pending() - b->granted;
    return std::pair(a->order.priority, lacks_a) < std::pair(b->order.priority, lacks_b);
  });
  for (Sequence* s : prompts) grant(*s, left.tokens, left);
}

// Makes every block that the sequence may write its own, at the cost of the last running ones. False when it
// was itself the last one and had to give up its blocks.
bool Scheduler::hold(Sequence& s, Batch& batch) {
  for (;;) {
    // Only a fork shares a block that is not full: the first to write copies it, the last keeps it.
    const size_t written = s.computed / kBlockTokens;
    const bool shared = written < s.blocks.size() && pool_.references(s.blocks[written]) > 1;
    const int missing = blocks_for(s.total()) - static_cast<int>(s.blocks.size());
    if (missing + shared <= available()) {
      if (shared) {
        const int32_t own = allocate();
        batch.copies.emplace_back(s.blocks[written], own);
        cache_.release(std::exchange(s.blocks[written], own));
      }
      for (int i = 0; i < missing; ++i) s.blocks.push_back(allocate());
      return true;
    }
    const bool itself = &running_.rbegin()->second == &s;
    assert(!itself || running_.size() > 1);  // alone it has the whole pool
    preempt_last();
    if (itself) return false;
  }
}

// The first waiting sequence starts to run, with blocks for all of its tokens, if that leaves every running
// one a block to grow into: otherwise it would soon be preempted, and its work done again.
bool Scheduler::admit() {
  if (waiting_.empty() || running_.size() >= static_cast<size_t>(options_.max_sequences)) return false;
  Sequence& s = waiting_.begin()->second;
  const int hit = attach_prefix(s);
  const int missing = blocks_for(s.total()) - static_cast<int>(s.blocks.size());
  if (missing + static_cast<int>(running_.size()) > available()) {
    drop(s);
    return false;
  }
  for (int i = 0; i < missing; ++i) s.blocks.push_back(allocate());
  s.granted = 0;
  credit(s, hit);
  running_.insert(waiting_.extract(waiting_.begin()));
  return true;
}

void Scheduler::preempt_last() {
  const auto last = std::prev(running_.end());
  drop(last->second);
  waiting_.insert(running_.extract(last));
  ++preemptions_;
}

// Up to `tokens` more rows of the step.
void Scheduler::grant(Sequence& s, int tokens, Budget& left) {
  int rows = std::min({s.pending() - s.granted, tokens, left.tokens});
  if (s.want == Want::Logits) {
    // Rows whose logits are not wanted, or were delivered before a preemption.
    const int silent = std::max(0, s.delivered() - s.computed - s.granted);
    rows = std::min(rows, silent + left.logits_rows);
    left.logits_rows -= std::max(0, rows - silent);
  }
  s.granted += rows;
  left.tokens -= rows;
}

void Scheduler::commit(const Plan& plan, std::span<const Next> next) {
  size_t used = 0;
  for (const Chunk& chunk : plan.chunks) {
    Sequence& s = *chunk.sequence;
    advance(chunk);
    const auto streams = next.subspan(used, chunk.samples);
    used += chunk.samples;
    for (int i = 1; i < chunk.samples; ++i)
      if (!streams[i].finished) fork(s, i, streams[i].token);
    const bool finished = chunk.last && (chunk.samples == 0 || streams[0].finished);
    if (finished) {
      drop(s);
      running_.erase(running_.find(s.order));
    } else if (chunk.samples > 0) {
      s.tokens.push_back(streams[0].token);
      s.streams = 1;
    }
  }
  assert(used == next.size());
  while (running_.size() > static_cast<size_t>(options_.max_sequences)) preempt_last();  // forks may be many
}

// Counts the chunk as computed and offers its full blocks to the prefix cache.
void Scheduler::advance(const Chunk& chunk) {
  Sequence& s = *chunk.sequence;
  const int full = s.computed / kBlockTokens;
  s.computed += chunk.rows;
  s.furthest = std::max(s.furthest, s.computed);
  for (int i = full; i < s.computed / kBlockTokens; ++i) {
    const auto link = cache_.insert(s.chain, s.salt, &s.tokens[i * kBlockTokens], s.blocks[i]);
    s.blocks[i] = link.block;
    s.chain = link.chain;
  }
}

void Scheduler::fork(const Sequence& parent, int index, int32_t token) {
  Sequence s = parent;
  s.order.index = index;
  s.streams = 1;
  s.tokens.push_back(token);
  for (int32_t block : s.blocks) pool_.retain(block);
  running_.emplace(s.order, std::move(s));
}

// Moves `computed` over the cached blocks that come next, but never over a token whose output is wanted.
// Returns the tokens it moved over.
int Scheduler::attach_prefix(Sequence& s) {
  const int before = s.computed;
  const bool every = s.want == Want::Logits || s.want == Want::States;
  const int end = every ? std::min(s.delivered(), s.total() - 1) : s.total() - 1;
  while (s.computed % kBlockTokens == 0 && s.computed + kBlockTokens <= end) {
    const auto link = cache_.acquire(s.chain, s.salt, &s.tokens[s.computed]);
    if (!link) break;
    const size_t i = s.computed / kBlockTokens;
    if (i < s.blocks.size()) {
      cache_.release(std::exchange(s.blocks[i], link->block));
    } else {
      s.blocks.push_back(link->block);
    }
    s.chain = link->chain;
    s.computed += kBlockTokens;
  }
  return s.computed - before;
}

void Scheduler::credit(Sequence& s, int tokens) {
  hit_tokens_ += tokens;
  s.cached += std::max(0, s.computed - s.furthest);
  s.furthest = std::max(s.furthest, s.computed);
}

// Gives back every block; the full ones stay in the prefix cache, so that computing them again is cheap.
void Scheduler::drop(Sequence& s) {
  while (!s.blocks.empty()) {
    cache_.release(s.blocks.back());
    s.blocks.pop_back();
  }
  s.computed = 0;
  s.chain = 0;
}

int32_t Scheduler::allocate() {
  if (pool_.free() == 0) cache_.evict();
  return pool_.allocate();
}

}  // namespace pyllm
