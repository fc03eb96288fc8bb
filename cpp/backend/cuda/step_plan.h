// What the kernels of a step read of its batch, in one piece of device memory that one copy fills. Decoding
// steps are padded to a bucket of rows (step_graphs.h), with rows that store nothing and attend to nothing, so
// that other batches find the same addresses and sizes.
#pragma once

#include <algorithm>
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
  AttentionTile* tiles = nullptr;  // on the device
};

class StepPlan {
 public:
  // The batch must live until the next begin.
  void begin(const Batch& batch, Stream& stream);
  const Batch& batch() const { return *batch_; }

  // One token of each sequence, whose logits are wanted, and nothing else.
  bool decodes() const { return decodes_; }
  // How many rows a tensor with `rows` of them is computed with: more, where they are the batch's own.
  int64_t padded(int64_t rows) const { return decodes_ && rows == rows_ ? padded_rows_ : rows; }

  int64_t padded_rows() const { return padded_rows_; }

  const int32_t* tokens() const { return at(0); }
  const int32_t* positions() const { return at(padded_rows_); }
  const int32_t* slots() const { return at(2 * padded_rows_); }  // block * kBlockTokens + token within it
  const int32_t* sampled() const { return at(3 * padded_rows_); }
  const int32_t* tables() const { return at(tables_); }
  // Chunks that any tile sees, from position 0 on, at most.
  int chunks() const { return chunks_; }
  // Where tiles of that many rows are not known yet - in a first step - everything is copied again, elsewhere:
  // no launch may still wait for this step's numbers.
  bool knows_tiles(int rows) const {
    return std::any_of(tile_plans_.begin(), tile_plans_.end(),
                       [&](const TilePlan& p) { return p.rows == rows; });
  }
  const TilePlan& tiles(int rows, Stream& stream);

 private:
  const int32_t* at(int64_t word) const { return memory_.as<int32_t>() + word; }
  void send(Stream& stream);

  const Batch* batch_ = nullptr;
  bool decodes_ = false;
  int64_t rows_ = 0, padded_rows_ = 0;
  int chunks_ = 0;
  int64_t tables_ = 0;  // words before them
  std::vector<TilePlan> tile_plans_;
  PinnedMemory host_;
  DeviceMemory memory_;
};

}  // namespace pyllm::cuda
