// Which KV blocks are free and how often each of the others is referenced. It never knows what a block holds.
#pragma once

#include <cstdint>
#include <vector>

namespace pyllm {

class BlockPool {
 public:
  explicit BlockPool(int blocks);

  int size() const { return static_cast<int>(references_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int references(int32_t block) const { return references_[block]; }

  int32_t allocate();  // a free block, now referenced once; only while free() > 0
  void retain(int32_t block);
  int release(int32_t block);  // returns the references left; at 0 the block is free again

 private:
  std::vector<int32_t> references_;  // [block]
  std::vector<int32_t> free_;        // a stack, so that the block freed last, still in the caches, goes first
};

}  // namespace pyllm
