#include "backend/cuda/step_plan.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/step_graphs.h"

namespace pyllm::cuda {

namespace {

constexpr int64_t kLeast = 256 << 10;  // bytes: graphs of few rows stay good when more come

bool is_decoding(const Batch& batch) {
  const size_t rows = batch.tokens.size();
  return rows > 0 && rows <= kMostGraphRows && batch.sequences.size() == rows &&
         batch.sampled_rows.size() == rows && batch.state_rows.empty() && batch.copies.empty();
}

void make_tiles(const Batch& batch, int64_t padded_rows, TilePlan& plan, std::vector<AttentionTile>& tiles) {
  const size_t before = tiles.size();
  int32_t table = 0;
  for (const BatchSequence& s : batch.sequences) {
    for (int first = 0; first < s.rows; first += plan.rows)
      tiles.push_back({s.first_row + first, std::min(plan.rows, s.rows - first), s.past + first, table});
    table += static_cast<int32_t>(s.blocks.size());
  }
  for (int64_t row = static_cast<int64_t>(batch.tokens.size()); row < padded_rows; ++row)
    tiles.push_back({static_cast<int32_t>(row), 0, 0, 0});
  plan.count = static_cast<int>(tiles.size() - before);
}

}  // namespace

void StepPlan::begin(const Batch& batch, Stream& stream) {
  batch_ = &batch;
  rows_ = static_cast<int64_t>(batch.tokens.size());
  decodes_ = is_decoding(batch);
  padded_rows_ = decodes_ ? row_bucket(static_cast<int>(rows_)) : rows_;
  chunks_ = 0;
  for (const BatchSequence& s : batch.sequences)
    chunks_ = std::max(chunks_, (s.past + s.rows - 1) / kChunk + 1);
  if (decodes_) chunks_ = chunk_bucket(chunks_);
  send(stream);
}

void StepPlan::send(Stream& stream) {
  const Batch& batch = *batch_;
  const auto rows = static_cast<size_t>(padded_rows_);
  std::vector<int32_t> words(3 * rows);
  int32_t *positions = words.data() + rows, *slots = positions + rows;
  std::copy(batch.tokens.begin(), batch.tokens.end(), words.begin());
  std::fill(slots, slots + rows, -1);
  for (const BatchSequence& s : batch.sequences)
    for (int i = 0; i < s.rows; ++i) {
      const int position = s.past + i;
      positions[s.first_row + i] = position;
      slots[s.first_row + i] =
          s.blocks[static_cast<size_t>(position / kBlockTokens)] * kBlockTokens + position % kBlockTokens;
    }
  words.insert(words.end(), batch.sampled_rows.begin(), batch.sampled_rows.end());
  if (decodes_)
    for (auto row = static_cast<int32_t>(rows_); row < padded_rows_; ++row) words.push_back(row);
  words.resize((words.size() + 3) / 4 * 4);
  const auto first_tile = static_cast<int64_t>(words.size());
  std::vector<AttentionTile> tiles;
  for (TilePlan& plan : tile_plans_) make_tiles(batch, padded_rows_, plan, tiles);
  static_assert(sizeof(AttentionTile) == 4 * sizeof(int32_t));
  words.resize(words.size() + 4 * tiles.size());
  if (!tiles.empty())
    std::memcpy(words.data() + first_tile, tiles.data(), tiles.size() * sizeof(AttentionTile));
  tables_ = static_cast<int64_t>(words.size());  // last: nothing lies behind what differs in length
  for (const BatchSequence& s : batch.sequences) words.insert(words.end(), s.blocks.begin(), s.blocks.end());

  const auto bytes = static_cast<int64_t>(words.size() * sizeof(int32_t));
  void* host = host_.reserve(bytes);
  std::memcpy(host, words.data(), static_cast<size_t>(bytes));
  if (memory_.bytes() < bytes) memory_ = DeviceMemory(std::max(2 * bytes, kLeast), "a step's plan");
  check(cudaMemcpyAsync(memory_.as<char>(), host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                        stream.get()),
        "a step's plan");
  auto* tile = memory_.as<AttentionTile>() + first_tile / 4;
  for (TilePlan& plan : tile_plans_) {
    plan.tiles = tile;
    tile += plan.count;
  }
}

const TilePlan& StepPlan::tiles(int rows, Stream& stream) {
  for (const TilePlan& plan : tile_plans_)
    if (plan.rows == rows) return plan;
  tile_plans_.push_back({.rows = rows});
  check(cudaStreamSynchronize(stream.get()),
        "a step's plan");  // the last copy reads the memory that this one fills
  send(stream);
  return tile_plans_.back();
}

}  // namespace pyllm::cuda
