// How many blocks the KV pool gets.
#pragma once

#include <cstdint>

namespace pyllm {

struct KvDemand {
  int64_t block_bytes = 0;  // of one block, all layers
  int64_t context = 0;      // tokens of one sequence at most
  int64_t sequences = 0;    // running at the same time
  int64_t kv_bytes = 0;     // asked for by the user; 0: decide
  int64_t available = 0;    // bytes of memory; 0: unknown
};

// Undecided by the user: enough for every sequence's whole context, but no more than a quarter of the available
// memory, unless one context needs more: that may take three quarters. So the pool can be smaller than a
// context; then it limits how long a sequence gets. Throws Error when the memory does not hold what is asked
// for, or not a single block.
int kv_pool_blocks(const KvDemand& demand);

}  // namespace pyllm
