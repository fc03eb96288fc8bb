// Random schedules of the block pool, prefix cache and scheduler: requests arrive, fork, are cancelled and
// preempted in tiny pools, and steps fail. Every request must get exactly the tokens that it gets alone.
//
//     simulate_scheduler FIRST_SEED COUNT
//
// prints what the schedules did, or the first failing seed and exits with 1.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/scheduler.h"
#include "fake_kv.h"

namespace pyllm {
namespace {

constexpr int kVocab = 3;  // so few that prompts and continuations often coincide

void check(bool right, const char* what) {
  if (!right) throw std::runtime_error(what);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(fake::mix(seed, 1)) {}
  int below(int n) { return static_cast<int>((state_ = fake::mix(state_, 7)) % static_cast<uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool once_in(int n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

// What one request asks for, and what its streams have got so far.
struct Client {
  std::vector<int32_t> prompt;
  std::string salt;
  Want want = Want::Tokens;
  int streams = 1, max_new = 0, priority = 0;
  int wanted_from = 0;            // of Want::Logits
  int arrives = 0, cancels = -1;  // at which step

  bool added = false, gone = false;  // gone: finished, cancelled or failed
  bool cut = false;                  // gone before the end
  int finished = 0;                  // streams
  Order order;
  std::vector<std::vector<int32_t>> got;  // [stream] generated tokens
  std::vector<uint64_t> values;           // Logits, States: [prompt position wanted]; LastState: [1]
};

int32_t pick(uint64_t value, int stream) { return static_cast<int32_t>(fake::mix(value, stream) % kVocab); }

uint64_t value_of(const std::vector<int32_t>& tokens) {
  uint64_t value = 0;
  for (size_t i = 0; i < tokens.size(); ++i)
    value = fake::attend(value, fake::key_value(tokens[i], static_cast<int>(i)));
  return value;
}

struct Totals {
  int64_t steps = 0, rows = 0, tokens = 0, hits = 0, preemptions = 0, copies = 0, cancels = 0, failures = 0,
          moved = 0;
};

class Simulation {
 public:
  Simulation(uint64_t seed, Totals& totals) : random_(seed), totals_(totals) {
    options_.blocks = random_.between(2, 20);
    options_.max_batch_tokens = random_.once_in(4) ? random_.between(1, 4) : random_.between(1, 48);
    options_.max_sequences = random_.between(1, std::min(6, options_.max_batch_tokens));
    options_.max_logits_rows = random_.between(1, 20);
    options_.prefix_cache = !random_.once_in(8);
    limit_ = options_.blocks * kBlockTokens;
    std::vector<int32_t> shared(std::min(limit_, 64));
    for (int32_t& token : shared) token = random_.below(kVocab);
    clients_.resize(random_.between(1, 7));
    for (Client& c : clients_) draw(c, shared);
  }

  void run() {
    Scheduler scheduler(options_);
    fake::Kv kv(options_.blocks);
    int64_t longest = 64;  // steps: each sequence may start anew after each arrival
    for (const Client& c : clients_)
      longest += static_cast<int64_t>(c.streams) * (c.prompt.size() + c.max_new + 1) * (clients_.size() + 1);
    for (step_ = 0; !done(scheduler); ++step_) {
      check(step_ < longest, "the schedule does not end");
      arrive_and_cancel(scheduler);
      if (random_.once_in(10)) move_blocks(scheduler, kv);
      const bool work = !scheduler.idle();
      const Order first = work ? foremost(scheduler) : Order{};
      const Plan plan = scheduler.plan();
      check(plan.empty() != work, "work to do and an empty plan, or the reverse");
      if (plan.empty()) continue;
      check(plan.chunks.front().sequence->order == first, "the first in order makes no progress");
      check_plan(scheduler, plan);
      check_pool(scheduler);
      account(plan);
      if (random_.once_in(40)) {
        fail_step(scheduler, kv, plan);
      } else {
        commit(scheduler, kv, plan);
      }
      check_pool(scheduler);
      check(static_cast<int>(scheduler.running().size()) <= options_.max_sequences, "too many sequences run");
    }
    check(scheduler.pool().free() + scheduler.cache().size() == options_.blocks, "a block is lost at the end");
    check(scheduler.cache().idle() == scheduler.cache().size(), "a cached block stays referenced");
    totals_.hits += scheduler.hit_tokens();
    totals_.preemptions += scheduler.preemptions();
    for (const Client& c : clients_) check_tokens(c);
  }

 private:
  void draw(Client& c, const std::vector<int32_t>& shared) {
    c.prompt.assign(shared.begin(), shared.begin() + random_.below(static_cast<int>(shared.size()) + 1));
    const int room = limit_ - static_cast<int>(c.prompt.size());
    for (int i = std::min(room, random_.between(0, 20)); i > 0; --i) c.prompt.push_back(random_.below(kVocab));
    if (c.prompt.empty()) c.prompt.push_back(1);
    c.salt = random_.once_in(5) ? "other" : "";
    constexpr Want kOthers[] = {Want::Logits, Want::States, Want::LastState, Want::Nothing};
    c.want = random_.once_in(4) ? kOthers[random_.below(4)] : Want::Tokens;
    if (c.want == Want::Logits && random_.once_in(2)) c.wanted_from = random_.below(c.prompt.size());
    c.streams = c.want == Want::Tokens && random_.once_in(3) ? random_.between(2, 4) : 1;
    c.max_new = std::min(random_.between(1, 40), limit_ - static_cast<int>(c.prompt.size()));
    if (c.max_new == 0 && c.want == Want::Tokens) c.want = Want::Nothing, c.streams = 1;
    c.priority = random_.once_in(6) ? random_.between(-1, 1) : 0;
    c.arrives = random_.below(30);
    if (random_.once_in(6)) c.cancels = c.arrives + random_.below(40);
    c.got.resize(c.streams);
  }

  bool done(const Scheduler& scheduler) const {
    return scheduler.idle() && std::all_of(clients_.begin(), clients_.end(), [](auto& c) { return c.added; });
  }

  static Order foremost(const Scheduler& s) {
    if (s.running().empty()) return s.waiting().begin()->first;
    if (s.waiting().empty()) return s.running().begin()->first;
    return std::min(s.running().begin()->first, s.waiting().begin()->first);
  }

  void arrive_and_cancel(Scheduler& scheduler) {
    for (size_t i = 0; i < clients_.size(); ++i) {
      Client& c = clients_[i];
      if (!c.added && c.arrives <= step_) {
        c.added = true;
        Sequence s;
        s.request = i;
        s.want = c.want;
        s.streams = c.streams;
        s.salt = c.salt;
        s.tokens = c.prompt;
        s.wanted_from = c.wanted_from;
        c.order = scheduler.add(std::move(s), c.priority);
      }
      if (c.added && !c.gone && c.cancels >= 0 && c.cancels <= step_) {
        ++totals_.cancels;
        scheduler.remove(c.order);
        c.gone = c.cut = true;
      }
    }
  }

  // A text's blocks are copied out, and some more of it, computed elsewhere, in.
  void move_blocks(Scheduler& scheduler, fake::Kv& kv) {
    const Client& c = clients_[random_.below(static_cast<int>(clients_.size()))];
    std::vector<int32_t> tokens = c.prompt;
    tokens.insert(tokens.end(), c.got[0].begin(), c.got[0].end());
    HeldPrefix held = scheduler.hold_prefix(c.salt, tokens);
    for (size_t i = 0; i < held.blocks().size(); ++i) {
      const int position = static_cast<int>(i) * kBlockTokens;
      check(kv.read(held.blocks()[i]) == fake::Kv::kept(&tokens[position], position),
            "a block of other tokens");
    }
    for (int more = random_.below(4); more > 0; --more) {
      const int position = static_cast<int>(held.blocks().size()) * kBlockTokens;
      const auto block = held.grow();
      if (!block) break;
      check(scheduler.pool().references(*block) == 1, "a block in use is filled");
      kv.write(*block, fake::Kv::kept(&tokens[position], position));
      if (random_.once_in(8)) break;  // filling it has failed
      held.keep();
      ++totals_.moved;
    }
  }

  void account(const Plan& plan) {
    ++totals_.steps;
    totals_.rows += static_cast<int64_t>(plan.batch.tokens.size());
    totals_.copies += static_cast<int64_t>(plan.batch.copies.size());
  }

  void commit(Scheduler& scheduler, fake::Kv& kv, const Plan& plan) {
    const auto [logits, states] = kv.forward(plan.batch);
    check(logits.size() == plan.batch.sampled_rows.size(), "sampled rows are not in order");
    check(states.size() == plan.batch.state_rows.size(), "state rows are not in order");
    std::vector<Next> next;
    for (const Chunk& chunk : plan.chunks) {
      const Sequence& s = *chunk.sequence;
      Client& c = clients_[s.request];
      const auto first = logits.begin() + chunk.first_logits, state = states.begin() + chunk.first_state;
      c.values.insert(c.values.end(), state, state + chunk.states);
      if (c.want == Want::Logits) c.values.insert(c.values.end(), first, first + chunk.logits);
      for (int i = 0; i < chunk.samples; ++i) {
        const int stream = s.order.index + i;
        const int32_t token = pick(*first, stream);
        c.got[stream].push_back(token);
        const bool finished = static_cast<int>(c.got[stream].size()) == c.max_new;
        c.finished += finished;
        next.push_back({token, finished});
        ++totals_.tokens;
      }
      if (c.finished == c.streams || (chunk.last && c.want != Want::Tokens)) c.gone = true;
    }
    scheduler.commit(plan, next);
  }

  void fail_step(Scheduler& scheduler, fake::Kv& kv, const Plan& plan) {
    ++totals_.failures;
    kv.scribble(plan.batch);
    std::set<uint64_t> failed;
    for (const Chunk& chunk : plan.chunks) failed.insert(chunk.sequence->request);
    for (uint64_t request : failed) {
      scheduler.remove(clients_[request].order);
      clients_[request].gone = clients_[request].cut = true;
    }
  }

  void check_plan(const Scheduler& scheduler, const Plan& plan) const {
    const Batch& batch = plan.batch;
    check(static_cast<int>(batch.tokens.size()) <= options_.max_batch_tokens, "more tokens than the budget");
    check(batch.sequences.size() == plan.chunks.size(), "chunks and sequences differ");
    int row = 0, logits_rows = 0;
    std::set<int32_t> written;
    for (size_t i = 0; i < plan.chunks.size(); ++i) {
      const BatchSequence& b = batch.sequences[i];
      const Sequence& s = *plan.chunks[i].sequence;
      check(b.first_row == row && b.rows > 0 && b.past == s.computed && b.past + b.rows <= s.total(),
            "wrong chunk");
      row += b.rows;
      if (s.want == Want::Logits) logits_rows += plan.chunks[i].logits;
      for (int p = b.past / kBlockTokens; p <= (b.past + b.rows - 1) / kBlockTokens; ++p) {
        const int32_t block = b.blocks.at(p);
        check(written.insert(block).second, "two sequences write one block");
        check(scheduler.pool().references(block) == 1, "a shared block is written");
        check(!scheduler.cache().holds(block), "a cached block is written");
      }
    }
    check(row == static_cast<int>(batch.tokens.size()), "rows and tokens differ");
    check(logits_rows <= options_.max_logits_rows, "more rows of logits than allowed");
    for (const auto& [order, s] : scheduler.running())
      check(s.pending() > 1 || s.want == Want::Logits || s.granted == 1, "a decode has to wait");
    for (const auto& [from, to] : batch.copies)
      check(written.count(to) == 1, "a copy that nobody in the step owns");
  }

  void check_pool(const Scheduler& scheduler) const {
    const BlockPool& pool = scheduler.pool();
    std::vector<int> references(pool.size(), 0);
    std::vector<std::string> salts(pool.size());
    for (const auto& [order, s] : scheduler.running()) {
      check(order == s.order, "a sequence under another's order");
      for (int32_t block : s.blocks) {
        if (references[block]++ == 0) salts[block] = s.salt;
        check(salts[block] == s.salt, "requests with different salts share a block");
      }
    }
    for (const auto& [order, s] : scheduler.waiting())
      check(s.blocks.empty() && s.computed == 0, "a waiting sequence holds blocks");
    int free = 0, cached = 0, idle = 0;
    for (int i = 0; i < pool.size(); ++i) {
      const bool held = scheduler.cache().holds(i);
      check(pool.references(i) == references[i] + held, "references differ from block tables");
      free += pool.references(i) == 0;
      cached += held;
      idle += held && references[i] == 0;
    }
    check(pool.free() == free, "the free list is wrong");
    check(scheduler.cache().size() == cached && scheduler.cache().idle() == idle,
          "the cache's counts are wrong");
  }

  void check_tokens(const Client& c) const {
    if (c.want == Want::LastState) {
      check(c.cut || c.values == std::vector{value_of(c.prompt)}, "not the last token's state");
    } else if (c.want != Want::Tokens && c.want != Want::Nothing) {
      const auto wanted = c.prompt.begin() + c.wanted_from;
      check(c.cut || c.values.size() == static_cast<size_t>(c.prompt.end() - wanted),
            "logits or states are missing");
      for (size_t i = 0; i < c.values.size(); ++i)
        check(c.values[i] == value_of({c.prompt.begin(), wanted + i + 1}), "wrong logits or states");
    }
    if (c.want != Want::Tokens) return;
    for (int stream = 0; stream < c.streams; ++stream) {
      check(c.cut || static_cast<int>(c.got[stream].size()) == c.max_new, "tokens are missing");
      std::vector<int32_t> tokens = c.prompt;
      uint64_t value = value_of(tokens);
      for (int32_t token : c.got[stream]) {
        check(token == pick(value, stream), "not the tokens it gets alone");
        value = fake::attend(value, fake::key_value(token, static_cast<int>(tokens.size())));
        tokens.push_back(token);
      }
    }
  }

  Random random_;
  Totals& totals_;
  SchedulerOptions options_;
  int limit_ = 0;  // tokens that fit the pool
  int step_ = 0;
  std::vector<Client> clients_;
};

}  // namespace
}  // namespace pyllm

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s FIRST_SEED COUNT\n", argv[0]), 2;
  const uint64_t first = std::strtoull(argv[1], nullptr, 10), count = std::strtoull(argv[2], nullptr, 10);
  pyllm::Totals t;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    try {
      pyllm::Simulation(seed, t).run();
    } catch (const std::exception& error) {
      return std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), error.what()), 1;
    }
  }
  std::printf(
      "{\"schedules\": %llu, \"steps\": %lld, \"rows\": %lld, \"tokens\": %lld, \"prefix_hit_tokens\": %lld, "
      "\"preemptions\": %lld, \"copies\": %lld, \"cancels\": %lld, \"failed_steps\": %lld, \"moved_blocks\": "
      "%lld}\n",
      static_cast<unsigned long long>(count), static_cast<long long>(t.steps), static_cast<long long>(t.rows),
      static_cast<long long>(t.tokens), static_cast<long long>(t.hits), static_cast<long long>(t.preemptions),
      static_cast<long long>(t.copies), static_cast<long long>(t.cancels), static_cast<long long>(t.failures),
      static_cast<long long>(t.moved));
}
