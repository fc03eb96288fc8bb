// How many blocks the KV pool gets.
#pragma once

#include <cstdint>
#include <vector>

namespace pyllm {

// Memory that holds the keys and values of some layers.
struct KvRoom {
  int64_t block_bytes = 0;    // of one block, all layers there
  int64_t available = 0;      // bytes; of the host's memory 0: unknown
  int64_t mapped_bytes = 0;   // of weights that count as available, although generation is slow without them
  bool device_owned = false;  // a device's own memory: nobody else wants it
};

struct KvDemand {
  std::vector<KvRoom> rooms;  // a block takes its part of each
  int64_t context = 0;        // tokens of one sequence at most
  int64_t sequences = 0;      // running at the same time
  int64_t kv_bytes = 0;       // in all rooms, asked for by the user; 0: decide
};

// Undecided by the user: enough for every sequence's whole context, but no more than a quarter of the available
// memory, unless one context needs more: that may take three quarters. Of a device's own memory it is half, or
// all. So the pool can be smaller than a context; then it limits how long a sequence gets. Throws Error when
// the memory does not hold what is asked for, or not a single block.
int kv_pool_blocks(const KvDemand& demand);

}  // namespace pyllm
