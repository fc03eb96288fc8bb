// The paged KV cache of the CPU backend.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/memory.h"

namespace pyllm::cpu {

// Per layer and block: for every KV head its keys [head_dim][16 tokens], then its values [16
// tokens][padded_dim].
class CpuKvCache : public KvCache {
 public:
  KvShape shape;
  int blocks = 0;
  int padded_dim = 0;
  int64_t value_offset = 0;  // bytes from a head's keys to its values
  int64_t head_bytes = 0;
  Memory memory;
  uint8_t* head(int layer, int block, int kv_head) const {
    const int64_t index = (static_cast<int64_t>(layer) * blocks + block) * shape.kv_heads + kv_head;
    return reinterpret_cast<uint8_t*>(memory.data()) + index * head_bytes;
  }
};

}  // namespace pyllm::cpu
