// Full KV blocks that can be used again by any sequence that begins with the same tokens.
// A block is found by the cached block before it (its chain id) and its own 16 tokens; both are compared in
// full, so equal hashes never give a wrong block. Idle blocks go least recently used first.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/batch.h"
#include "engine/block_pool.h"

namespace pyllm {

class PrefixCache {
 public:
  // A block and the chain id under which the next one is found. Chain 0 is the empty prefix.
  struct Link {
    int32_t block = -1;
    uint64_t chain = 0;
  };

  // A disabled cache finds nothing and keeps nothing.
  PrefixCache(BlockPool& pool, bool enabled);

  int size() const { return static_cast<int>(entries_.size()); }  // blocks kept
  int idle() const { return static_cast<int>(idle_.size()); }     // of them, referenced by no sequence
  bool holds(int32_t block) const { return slots_[block].entry != nullptr; }

  // The block that holds tokens[0..16) after `parent`, referenced once more; nothing when it is not cached.
  // Requests with different salts never share.
  std::optional<Link> acquire(uint64_t parent, const std::string& salt, const int32_t* tokens);

  // Hands over the caller's reference to a computed full block and returns the one to use from now on: the
  // same, or the block that another sequence has cached with the same content.
  Link insert(uint64_t parent, const std::string& salt, const int32_t* tokens, int32_t block);

  // Gives back a sequence's reference. A sequence gives back its last block first: so a block becomes idle,
  // and is evicted, before the one it continues.
  void release(int32_t block);

  bool evict();  // frees the idle block that was used longest ago; false when there is none

 private:
  struct Key {
    uint64_t parent;
    std::array<int32_t, kBlockTokens> tokens;
    std::string salt;  // of the first block; the chain carries it from there
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  using Entries = std::unordered_map<Key, Link, Hash>;
  struct Slot {
    const Entries::value_type* entry = nullptr;  // null: not cached
    bool idle = false;
    std::list<int32_t>::iterator position;  // in idle_, while idle
  };

  static Key key(uint64_t parent, const std::string& salt, const int32_t* tokens);
  Link use(const Link& link);

  BlockPool& pool_;
  bool enabled_;
  uint64_t last_chain_ = 0;
  Entries entries_;
  std::vector<Slot> slots_;  // [block]
  std::list<int32_t> idle_;  // used longest ago first
};

}  // namespace pyllm
