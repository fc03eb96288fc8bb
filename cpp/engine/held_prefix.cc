#include "engine/held_prefix.h"

#include "core/batch.h"

namespace pyllm {

HeldPrefix::HeldPrefix(BlockPool& pool, PrefixCache& cache, const std::string& salt,
                       std::span<const int32_t> tokens)
    : pool_(pool), cache_(cache), salt_(salt), tokens_(tokens) {
  for (size_t at = 0; at + kBlockTokens <= tokens_.size(); at += kBlockTokens) {
    const auto link = cache_.acquire(chain_, salt_, &tokens_[at]);
    if (!link) break;
    blocks_.push_back(link->block);
    chain_ = link->chain;
  }
}

HeldPrefix::~HeldPrefix() {
  for (; !blocks_.empty(); blocks_.pop_back()) cache_.release(blocks_.back());
}

std::optional<int32_t> HeldPrefix::grow() {
  if ((blocks_.size() + 1) * kBlockTokens > tokens_.size()) return std::nullopt;
  if (pool_.free() == 0 && !cache_.evict()) return std::nullopt;
  return blocks_.emplace_back(pool_.allocate());
}

void HeldPrefix::keep() {
  const size_t last = blocks_.size() - 1;
  const auto link = cache_.insert(chain_, salt_, &tokens_[last * kBlockTokens], blocks_[last]);
  blocks_[last] = link.block;
  chain_ = link.chain;
}

}  // namespace pyllm
