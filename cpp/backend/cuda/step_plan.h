// What the kernels of a step read of its batch, in one piece of device memory that one copy fills.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "core/batch.h"

namespace pyllm::cuda {

// Tiles of the batch's queries for one number of rows a tile.
struct TilePlan {
  int rows;  // of the batch in a tile, at most
  int count = 0;
  int chunks = 0;                  // most that any tile sees, from position 0 on
  AttentionTile* tiles = nullptr;  // on the device
};

class StepPlan {
 public:
  // The batch must live until the next begin.
  void begin(const Batch& batch, Stream& stream);
  const Batch& batch() const { return *batch_; }

  const int32_t* tokens() const { return tokens_; }
  const int32_t* positions() const { return positions_; }
  const int32_t* slots() const { return slots_; }  // block * kBlockTokens + token within it
  const int32_t* tables() const { return tables_; }
  const int32_t* sampled() const { return sampled_; }
  // Known from the second step on; the first one makes another copy.
  const TilePlan& tiles(int rows, Stream& stream);

 private:
  void send(Stream& stream);

  const Batch* batch_ = nullptr;
  std::vector<TilePlan> tile_plans_;
  PinnedMemory host_;
  DeviceMemory memory_;
  int32_t *tokens_ = nullptr, *positions_ = nullptr, *slots_ = nullptr, *tables_ = nullptr, *sampled_ = nullptr;
};

}  // namespace pyllm::cuda
