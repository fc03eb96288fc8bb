#include "engine/kv_size.h"

#include <algorithm>
#include <limits>

#include "core/batch.h"
#include "core/error.h"

namespace pyllm {
namespace {

constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max() / kBlockTokens;

// What is larger than the memory is slow anyway, and leaves a quarter.
int64_t free_beside_weights(const KvRoom& room) {
  return std::max(room.available - room.mapped_bytes, room.available / 4);
}

bool is_unknown(const KvRoom& room) { return !room.device_owned && room.available <= 0; }

const char* place(const KvRoom& room) { return room.device_owned ? "of the device's memory" : "of memory"; }

}  // namespace

int kv_pool_blocks(const KvDemand& d) {
  const int64_t one = (d.context + kBlockTokens - 1) / kBlockTokens;
  const int64_t all = one <= kMostBlocks / d.sequences ? one * d.sequences : kMostBlocks;
  int64_t block_bytes = 0;
  for (const KvRoom& room : d.rooms) block_bytes += room.block_bytes;
  if (d.kv_bytes != 0) {
    if (d.kv_bytes < block_bytes)
      fail("kv_bytes: expected at least ", block_bytes, " (one block of ", kBlockTokens, " tokens; ",
           one * block_bytes, " for the context of ", d.context, " tokens), got ", d.kv_bytes);
    for (const KvRoom& room : d.rooms) {
      const int64_t part = d.rooms.size() == 1 ? d.kv_bytes : d.kv_bytes / block_bytes * room.block_bytes;
      if (!is_unknown(room) && part > free_beside_weights(room))
        fail("kv_bytes: ", part, " are more than the ", free_beside_weights(room), " bytes ", place(room),
             " that are available");
    }
    return static_cast<int>(std::min(d.kv_bytes / block_bytes, kMostBlocks));
  }
  int64_t blocks = std::min(all, kMostBlocks);
  for (const KvRoom& room : d.rooms) {
    if (is_unknown(room)) {
      blocks = std::min(blocks, one);
      continue;
    }
    const int64_t free = room.device_owned ? room.available : free_beside_weights(room);
    const int64_t fit = free / room.block_bytes, quarter = free / 4 / room.block_bytes;
    blocks = std::min(blocks, room.device_owned ? std::max(fit / 2, std::min(one, fit))
                                                : std::max(quarter, std::min(one, 3 * quarter)));
    if (blocks < 1)
      fail("the KV pool needs at least ", room.block_bytes, " bytes (", kBlockTokens, " tokens; ",
           one * room.block_bytes, " for the context of ", d.context, " tokens) and ",
           std::max<int64_t>(free, 0), " bytes ", place(room),
           " are available; free some, or ask for a smaller model",
           room.device_owned ? " or fewer layers on the device" : "");
  }
  return static_cast<int>(blocks);
}

}  // namespace pyllm
