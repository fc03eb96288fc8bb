#include "engine/prefix_cache.h"

#include <algorithm>
#include <functional>

namespace pyllm {

PrefixCache::PrefixCache(BlockPool& pool, bool enabled) : pool_(pool), enabled_(enabled), slots_(pool.size()) {}

size_t PrefixCache::Hash::operator()(const Key& key) const {
  uint64_t h = key.parent ^ std::hash<std::string>()(key.salt);
  for (int32_t token : key.tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  return h;
}

PrefixCache::Key PrefixCache::key(uint64_t parent, const std::string& salt, const int32_t* tokens) {
  Key key{parent, {}, parent == 0 ? salt : std::string()};
  std::copy_n(tokens, kBlockTokens, key.tokens.begin());
  return key;
}

PrefixCache::Link PrefixCache::use(const Link& link) {
  pool_.retain(link.block);
  Slot& slot = slots_[link.block];
  if (slot.idle) idle_.erase(slot.position);
  slot.idle = false;
  return link;
}

std::optional<PrefixCache::Link> PrefixCache::acquire(uint64_t parent, const std::string& salt,
                                                      const int32_t* tokens) {
  if (!enabled_) return std::nullopt;
  const auto found = entries_.find(key(parent, salt, tokens));
  if (found == entries_.end()) return std::nullopt;
  return use(found->second);
}

PrefixCache::Link PrefixCache::insert(uint64_t parent, const std::string& salt, const int32_t* tokens,
                                      int32_t block) {
  if (!enabled_) return {block, 0};
  const auto [found, added] = entries_.try_emplace(key(parent, salt, tokens), Link{block, last_chain_ + 1});
  if (!added) {
    const Link link = use(found->second);
    release(block);
    return link;
  }
  ++last_chain_;
  slots_[block].entry = &*found;
  pool_.retain(block);
  return found->second;
}

void PrefixCache::release(int32_t block) {
  Slot& slot = slots_[block];
  if (pool_.release(block) != 1 || !slot.entry) return;
  slot.position = idle_.insert(idle_.end(), block);
  slot.idle = true;
}

bool PrefixCache::evict() {
  if (idle_.empty()) return false;
  const int32_t block = idle_.front();
  idle_.pop_front();
  entries_.erase(entries_.find(slots_[block].entry->first));
  slots_[block] = {};
  pool_.release(block);
  return true;
}

}  // namespace pyllm
