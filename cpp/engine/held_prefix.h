// The beginning of a text in the prefix cache, held while its blocks are copied out, and continued with blocks
// that were filled elsewhere. It never knows what a block holds.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/block_pool.h"
#include "engine/prefix_cache.h"

namespace pyllm {

class HeldPrefix {
 public:
  // Takes what is cached of `tokens`, whole blocks from the first on. All arguments must outlive it.
  HeldPrefix(BlockPool& pool, PrefixCache& cache, const std::string& salt, std::span<const int32_t> tokens);
  ~HeldPrefix();
  HeldPrefix(const HeldPrefix&) = delete;
  HeldPrefix& operator=(const HeldPrefix&) = delete;

  const std::vector<int32_t>& blocks() const { return blocks_; }

  // A block to fill for the tokens that come next, at the cost of an idle one; nothing when all are in use or
  // no 16 tokens are left.
  std::optional<int32_t> grow();
  // That block is filled: from now on it is found, where the cache keeps anything.
  void keep();

 private:
  BlockPool& pool_;
  PrefixCache& cache_;
  const std::string& salt_;
  std::span<const int32_t> tokens_;
  std::vector<int32_t> blocks_;
  uint64_t chain_ = 0;  // of the last block that is cached
};

}  // namespace pyllm
