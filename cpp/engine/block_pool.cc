#include "engine/block_pool.h"

#include <cassert>

namespace pyllm {

BlockPool::BlockPool(int blocks) : references_(blocks, 0), free_(blocks) {
  for (int i = 0; i < blocks; ++i) free_[i] = blocks - 1 - i;
}

int32_t BlockPool::allocate() {
  assert(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockPool::retain(int32_t block) {
  assert(references_[block] > 0);
  ++references_[block];
}

int BlockPool::release(int32_t block) {
  assert(references_[block] > 0);
  if (--references_[block] == 0) free_.push_back(block);
  return references_[block];
}

}  // namespace pyllm
