// Decides which sequences compute which tokens in the next step, and in which KV blocks. A sequence only ever
// wants `computed` to reach `total`: a prompt chunk, a decoded token and a speculated run are the same thing.
//
// The rule: sequences are served in order (priority, then arrival). Those that lack one token come first in
// the step's token budget; waiting ones are admitted; prompts share what is left, half of it in order, half by
// length. When blocks are short, unused prefix blocks go first, then the last running sequence gives up its
// blocks and is computed again later. So the first in order makes progress in every step, and short prompts do
// not wait for long ones. No model, no clock: a pure state machine.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/batch.h"
#include "engine/block_pool.h"
#include "engine/held_prefix.h"
#include "engine/prefix_cache.h"

namespace pyllm {

struct SchedulerOptions {
  int blocks = 0;              // in the KV pool
  int max_batch_tokens = 512;  // computed in one step
  int max_sequences = 64;      // running at the same time, at most max_batch_tokens: each may want a token
  int max_logits_rows = 512;   // of Want::Logits sequences in one step
  bool prefix_cache = true;
};

// Who goes first: the smaller priority, then the earlier arrival; forks of a request by index.
struct Order {
  int priority = 0;
  uint64_t arrival = 0;
  int index = 0;
  friend auto operator<=>(const Order&, const Order&) = default;
};

enum class Want {
  Tokens,     // sample whenever computed reaches total
  Logits,     // logits of every token from `wanted_from` on, each once, then done
  States,     // hidden states of every token, each once, then done
  LastState,  // the last token's hidden state, then done
  Nothing,    // compute (and so cache) every token, then done
};

struct Sequence {
  uint64_t request = 0;  // the caller's id
  Want want = Want::Tokens;
  int streams = 1;  // sequences that go on from the next sampled row: n before the fork, 1 after
  std::string salt;
  std::vector<int32_t> tokens;  // prompt, then generated
  int wanted_from = 0;          // of Want::Logits; what is before may come from the prefix cache

  Order order;
  int computed = 0;             // tokens whose keys and values are in the blocks
  std::vector<int32_t> blocks;  // block table; while running it covers every token
  uint64_t chain = 0;           // prefix cache's id of the last full computed block
  int furthest = 0;             // the most `computed` has been: less after a preemption
  int cached = 0;               // tokens that came from the prefix cache and were never computed here
  int granted = 0;              // rows in the current plan

  int total() const { return static_cast<int>(tokens.size()); }
  int pending() const { return total() - computed; }
  int delivered() const {
    return furthest > wanted_from ? furthest : wanted_from;
  }  // no output is wanted before
};

// A sequence's part of a step.
struct Chunk {
  Sequence* sequence = nullptr;
  int rows = 0;
  int first_logits = 0;  // its logits are rows [first_logits, first_logits + logits) of the step's
  int logits = 0;
  int first_state = 0;  // likewise of hidden states
  int states = 0;
  int samples = 0;    // tokens to sample from the last of them, one per stream
  bool last = false;  // computed reaches total
};

struct Plan {
  Batch batch;
  std::vector<Chunk> chunks;  // as in batch.sequences
  bool empty() const { return chunks.empty(); }
};

// What a stream goes on with.
struct Next {
  int32_t token = 0;
  bool finished = false;  // the stream ends here; its token is not computed
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Queues a sequence of at least one token; its tokens, present and future, must fit the pool.
  Order add(Sequence sequence, int priority);
  // Drops the request's sequences and frees their blocks. Any plan that is not committed becomes void.
  void remove(const Order& request);

  Plan plan();
  // After the plan was computed. `next` holds the plan's samples, in order of the chunks.
  void commit(const Plan& plan, std::span<const Next> next);

  // Between steps: what is cached of a text, to be copied out or continued. Both arguments must outlive it.
  HeldPrefix hold_prefix(const std::string& salt, std::span<const int32_t> tokens) {
    return HeldPrefix(pool_, cache_, salt, tokens);
  }

  int blocks_for(int64_t tokens) const { return static_cast<int>((tokens + kBlockTokens - 1) / kBlockTokens); }
  bool idle() const { return running_.empty() && waiting_.empty(); }

  using Sequences = std::map<Order, Sequence>;
  const Sequences& running() const { return running_; }
  const Sequences& waiting() const { return waiting_; }
  const BlockPool& pool() const { return pool_; }
  const PrefixCache& cache() const { return cache_; }
  int64_t preemptions() const { return preemptions_; }
  int64_t hit_tokens() const { return hit_tokens_; }  // taken from the prefix cache, after preemptions too

 private:
  int available() const { return pool_.free() + cache_.idle(); }
  int32_t allocate();
  int attach_prefix(Sequence& sequence);
  void credit(Sequence& sequence, int tokens);
  bool hold(Sequence& sequence, Batch& batch);
  bool admit();
  void preempt_last();
  struct Budget {
    int tokens = 0;
    int logits_rows = 0;
  };
  void grant(Sequence& sequence, int tokens, Budget& left);
  void share_out(Budget& left);
  void drop(Sequence& sequence);
  void advance(const Chunk& chunk);
  void fork(const Sequence& parent, int index, int32_t token);

  SchedulerOptions options_;
  BlockPool pool_;
  PrefixCache cache_;
  Sequences running_;
  Sequences waiting_;
  uint64_t arrivals_ = 0;
  int64_t preemptions_ = 0;
  int64_t hit_tokens_ = 0;
};

}  // namespace pyllm
