// The paged KV cache of the CPU backend: where a block keeps what, and how keys and values get there.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"

namespace pyllm::cpu {

KvLayout kv_layout(KvType type, int head_dim);

// Stores the key and the value [head_dim] of the token in slot `slot` of a block of one KV head.
void store_token(const Kernels& kernels, const KvLayout& layout, uint8_t* block, int slot, const float* key,
                 const float* value);

// Whether `rotate` goes over such keys, and so queries, or such values, and so results.
inline bool is_rotated(KvElement element) { return element == KvElement::Bits6 || element == KvElement::Bits4; }

// The orthonormal Walsh-Hadamard transform, its own inverse, in place: it spreads what a few features hold over
// all of them, so that they fit one scale. n that are no power of two: of runs of powers of two, long ones
// first.
void rotate(float* x, int n);

// Per layer and block: every KV head's part, `layout.bytes` each.
class CpuKvCache : public KvCache {
 public:
  CpuKvCache(const KvShape& shape, KvType type, int blocks);

  KvShape shape;
  KvLayout layout;
  int blocks;
  Memory memory;
  uint8_t* head(int layer, int block, int kv_head) const {
    const int64_t index = (static_cast<int64_t>(layer) * blocks + block) * shape.kv_heads + kv_head;
    return reinterpret_cast<uint8_t*>(memory.data()) + index * layout.bytes;
  }
};

}  // namespace pyllm::cpu
