#include "engine/kv_size.h"

#include <algorithm>
#include <limits>

#include "core/batch.h"
#include "core/error.h"

namespace pyllm {
namespace {
constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max() / kBlockTokens;
}

int kv_pool_blocks(const KvDemand& d) {
  const int64_t one = (d.context + kBlockTokens - 1) / kBlockTokens;
  const int64_t all = one <= kMostBlocks / d.sequences ? one * d.sequences : kMostBlocks;
  if (d.kv_bytes != 0) {
    if (d.kv_bytes < d.block_bytes)
      fail("kv_bytes: expected at least ", d.block_bytes, " (", kBlockTokens, " tokens; ", one * d.block_bytes,
           " for the context of ", d.context, " tokens), got ", d.kv_bytes);
    if (d.available > 0 && d.kv_bytes > d.available)
      fail("kv_bytes: ", d.kv_bytes, " are more than the ", d.available, " bytes of memory that are available");
    return static_cast<int>(std::min(d.kv_bytes / d.block_bytes, kMostBlocks));
  }
  if (d.available <= 0) return static_cast<int>(std::min(one, kMostBlocks));
  const int64_t quarter = d.available / 4 / d.block_bytes;
  const int64_t blocks = std::min({all, std::max(quarter, std::min(one, 3 * quarter)), kMostBlocks});
  if (blocks < 1)
    fail("the KV pool needs at least ", d.block_bytes, " bytes (", kBlockTokens, " tokens; ",
         one * d.block_bytes, " for the context of ", d.context, " tokens) and ", d.available,
         " bytes of memory are available; free some, or ask for a smaller model");
  return static_cast<int>(blocks);
}

}  // namespace pyllm
