// Weights as the tensor cores want them: tiles of 16 rows, in each chunks of 2 or 8 steps of 32 columns. A
// chunk holds first the codes, in planes of 8, 4, 2 or 1 bits; of a plane every lane's part lies together, so
// that the warp reads it in wide, coalesced loads. With g = lane / 4 and t = lane % 4 a step has four words of
// four codes:
//   W0, W1: columns 4 t .. 4 t + 3 of rows g and g + 8;  W2, W3: the same from column 16 + 4 t on.
//   8 bits: the words.            4 bits: low and high nibbles of a word are W0 and W1, of the next W2 and W3
//                                 (with a table: the low four nibbles and the high four).
//   2 bits: W0 to W3 are bit pairs 0 to 3 of every byte.   1 bit: bits 0 to 3; of an odd step bits 4 to 7.
//   3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2 bits: two planes, the low bits first.
// Then, row by row, the scales and mins of the chunk's groups, and for Super types the rows' d and dmin.
#pragma once

#include <cstdint>

#include "quant/quant.h"

namespace pyllm::cuda {

inline constexpr int kStep = 32;  // columns of one product: the activations' block
inline constexpr int kTileRows = 16;
inline constexpr int kRowPadding = 32;  // the widest kernel takes two tiles
inline constexpr int kSlices = 8;       // runs of chunks whose sums are added at the end, in order

template <int kBits_, int kGroup_, bool kMin_, bool kTable_, quant::Scales kScales_, int kSteps_>
struct Layout {
  static constexpr int kBits = kBits_, kGroup = kGroup_, kSteps = kSteps_;
  static constexpr bool kMin = kMin_, kTable = kTable_;
  static constexpr quant::Scales kScales = kScales_;

  static constexpr int kHigh = kBits == 3 || kBits == 5 ? 1 : kBits == 6 ? 2 : 0;  // bits of the second plane
  static constexpr int kLow = kBits - kHigh;
  static constexpr int kGroupsPerStep = kStep / kGroup, kGroups = kSteps * kGroupsPerStep;
  // Words of a lane.
  static constexpr int kLowWords = kSteps * kLow / 2, kHighWords = kSteps * kHigh / 2;
  // Of a row.
  static constexpr int kScaleBytes = (kScales == quant::Scales::Super  ? 1
                                      : kScales == quant::Scales::Half ? 2
                                                                       : 4) *
                                     kGroups * (kMin ? 2 : 1);
  static constexpr int kSuperBytes = kScales == quant::Scales::Super ? (kMin ? 4 : 2) : 0;
  // Where the parts of a chunk begin.
  static constexpr int kHighAt = 128 * kLowWords, kScalesAt = kHighAt + 128 * kHighWords;
  static constexpr int kSuperAt = kScalesAt + kTileRows * kScaleBytes;
  static constexpr int kChunkBytes = kSuperAt + kTileRows * kSuperBytes;
  static constexpr int kColumns = kSteps * kStep;

  static_assert(kScales != quant::Scales::Super || kColumns == 256);
  static_assert(kScaleBytes % 4 == 0 && kChunkBytes % 16 == 0);
};

// A chunk is a block of 256 weights, or less where that keeps enough loads in flight.
template <typename Q>
using LayoutOf = Layout<Q::code_bits, Q::group, Q::has_min, quant::has_table<Q>, Q::scales,
                        Q::block == 256 && Q::code_bits != 8 ? 8 : 2>;

// What host code needs of a layout.
struct PackedShape {
  int64_t tiles, chunks, bytes;
  int steps;  // of all chunks
};
template <typename L>
constexpr PackedShape packed_shape(int64_t rows, int64_t cols) {
  const int64_t tiles = (rows + kRowPadding - 1) / kRowPadding * (kRowPadding / kTileRows);
  const int64_t chunks = (cols + L::kColumns - 1) / L::kColumns;
  return {tiles, chunks, tiles * chunks * L::kChunkBytes, static_cast<int>(chunks * L::kSteps)};
}

// Types whose codes take far more room than the file keep the file's blocks, and are packed just before use.
template <typename Q>
constexpr bool kept_packed() {
  constexpr int64_t file = int64_t{kTileRows} * (LayoutOf<Q>::kColumns / Q::block) * sizeof(typename Q::Block);
  if constexpr (LayoutOf<Q>::kColumns < Q::block)
    return LayoutOf<Q>::kChunkBytes * (Q::block / LayoutOf<Q>::kColumns) <=
           int64_t{kTileRows} * sizeof(typename Q::Block) * 3 / 2;
  else
    return LayoutOf<Q>::kChunkBytes <= file * 3 / 2;
}

}  // namespace pyllm::cuda
