#include "backend/cuda/step_plan.h"

#include <algorithm>
#include <cstring>

namespace pyllm::cuda {

namespace {

void make_tiles(const Batch& batch, TilePlan& plan, std::vector<AttentionTile>& tiles) {
  plan.count = plan.chunks = 0;
  int32_t table = 0;
  for (const BatchSequence& s : batch.sequences) {
    for (int first = 0; first < s.rows; first += plan.rows) {
      tiles.push_back({s.first_row + first, std::min(plan.rows, s.rows - first), s.past + first, table});
      ++plan.count;
    }
    plan.chunks = std::max(plan.chunks, (s.past + s.rows - 1) / kChunk + 1);
    table += static_cast<int32_t>(s.blocks.size());
  }
}

}  // namespace

void StepPlan::begin(const Batch& batch, Stream& stream) {
  batch_ = &batch;
  send(stream);
}

void StepPlan::send(Stream& stream) {
  const Batch& batch = *batch_;
  const size_t rows = batch.tokens.size();
  std::vector<int32_t> words = batch.tokens;
  words.resize(3 * rows);
  int32_t *positions = words.data() + rows, *slots = positions + rows;
  for (const BatchSequence& s : batch.sequences)
    for (int i = 0; i < s.rows; ++i) {
      const int position = s.past + i;
      positions[s.first_row + i] = position;
      slots[s.first_row + i] =
          s.blocks[static_cast<size_t>(position / kBlockTokens)] * kBlockTokens + position % kBlockTokens;
    }
  const size_t sampled = words.size();
  words.insert(words.end(), batch.sampled_rows.begin(), batch.sampled_rows.end());
  const size_t tables = words.size();
  for (const BatchSequence& s : batch.sequences) words.insert(words.end(), s.blocks.begin(), s.blocks.end());
  std::vector<AttentionTile> tiles;
  for (TilePlan& plan : tile_plans_) make_tiles(batch, plan, tiles);
  static_assert(sizeof(AttentionTile) == 16);
  words.resize((words.size() + 3) / 4 * 4);
  const size_t first_tile = words.size();

  const auto bytes =
      static_cast<int64_t>(words.size() * sizeof(int32_t) + tiles.size() * sizeof(AttentionTile));
  auto* host = static_cast<char*>(host_.reserve(bytes));
  std::memcpy(host, words.data(), words.size() * sizeof(int32_t));
  if (!tiles.empty())
    std::memcpy(host + words.size() * sizeof(int32_t), tiles.data(), tiles.size() * sizeof(AttentionTile));
  if (memory_.bytes() < bytes) memory_ = DeviceMemory(bytes + bytes / 2, "a step's plan");
  check(cudaMemcpyAsync(memory_.as<char>(), host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                        stream.get()),
        "a step's plan");

  tokens_ = memory_.as<int32_t>();
  positions_ = tokens_ + rows;
  slots_ = positions_ + rows;
  sampled_ = tokens_ + sampled;
  tables_ = tokens_ + tables;
  auto* at = reinterpret_cast<AttentionTile*>(tokens_ + first_tile);
  for (TilePlan& plan : tile_plans_) {
    plan.tiles = at;
    at += plan.count;
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
