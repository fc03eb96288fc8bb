// From logits to tokens: a block a row. What sampler.h says in floating point is done here with weights as
// integers, so that sums have no order: filters and the draw are all "the first token at which the running
// weight, in some order, exceeds a target", found digit by digit with histograms.
#include "backend/cuda/kernels.h"
#include "backend/cuda/reduce.h"

namespace pyllm::cuda {

namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kRankBits = 24, kDigitBits = 8, kBins = 1 << kDigitBits;
constexpr float kOne = 1099511627776.0f;  // 2^40, the best token's weight: a million tokens stay below 2^60

using Wide = unsigned long long;

struct Room {  // shared memory
  Wide sums[kBins];
  Wide partial[kWarps];
  Wide key, target, total;
  unsigned counts[kBins];
  unsigned bin, count;
  float value;
};

// Orders tokens: the more probable has the larger key; among equals the lower id.
__device__ __forceinline__ Wide key_of(float x, int id) {
  const uint32_t bits = float_to_bits(x == 0.0f ? 0.0f : x);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Wide>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(Wide key) { return static_cast<int>(~static_cast<uint32_t>(key)); }
__device__ __forceinline__ float logit_of(Wide key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __int_as_float(static_cast<int>(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered));
}

template <typename Reduce>
__device__ Wide over_block(Wide x, Room& room, Reduce reduce) {
  for (int mask = 16; mask > 0; mask /= 2) x = reduce(x, __shfl_xor_sync(0xffffffffu, x, mask));
  if (threadIdx.x % 32 == 0) room.partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = room.partial[0];
  for (int i = 1; i < kWarps; ++i) x = reduce(x, room.partial[i]);
  __syncthreads();
  return x;
}

// A row of logits, and what of it is still to choose from.
struct Row {
  float* logits;
  int vocab;
  float max = 0.0f;
  Wide least_key = 0;       // from a filter
  float least = -INFINITY;  // likewise

  __device__ __forceinline__ bool keeps(float x, int id) const {
    return x >= least && x > -INFINITY && key_of(x, id) >= least_key;
  }
  // How far below the best, in steps that 24 bits hold for 32 nats.
  __device__ __forceinline__ uint32_t rank(float x) const {
    const float steps = (max - x) * 524288.0f;
    return steps < 16777215.0f ? static_cast<uint32_t>(steps) : 16777215u;
  }
};

struct Ones {
  __device__ __forceinline__ Wide operator()(float) const { return 1; }
};
struct Weights {
  float max, temperature;
  __device__ __forceinline__ Wide operator()(float x) const {
    return static_cast<Wide>(expf((x - max) / temperature) * kOne);
  }
};

// Largest key of a row, or the first token that is no number below infinity.
struct Best {
  Wide key;
  int bad;  // -1: none
};
__device__ Best best_of(const Row& row, Room& room) {
  Wide key = 0, bad = ~Wide{0};
  for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += kThreads) {
    const float x = row.logits[i];
    if (!(x < INFINITY)) {
      bad = bad < static_cast<Wide>(i) ? bad : static_cast<Wide>(i);
    } else if (const Wide k = key_of(x, i); k > key) {
      key = k;
    }
  }
  key = over_block(key, room, [](Wide a, Wide b) { return a > b ? a : b; });
  bad = over_block(bad, room, [](Wide a, Wide b) { return a < b ? a : b; });
  return {key, bad == ~Wide{0} ? -1 : static_cast<int>(bad)};
}

template <typename Value>
__device__ Wide total_of(const Row& row, Value value, Room& room) {
  Wide sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += kThreads)
    if (row.keeps(row.logits[i], i)) sum += value(row.logits[i]);
  return over_block(sum, room, [](Wide a, Wide b) { return a + b; });
}

// Adds to a bin; lanes that all have the same one add up first.
__device__ __forceinline__ void count_in(int bin, Wide weight, Room& room) {
  const int first = __shfl_sync(0xffffffffu, bin, 0);
  if (warp_sum(bin == first ? 1 : 0) == 32) {
    const Wide sum = warp_sum(weight);
    if (first >= 0 && threadIdx.x % 32 == 0) {
      atomicAdd(&room.sums[first], sum);
      atomicAdd(&room.counts[first], 32u);
    }
  } else if (bin >= 0) {
    atomicAdd(&room.sums[bin], weight);
    atomicAdd(&room.counts[bin], 1u);
  }
}

// Where the running sum over the bins first exceeds room.target, which becomes what is left of it there. False:
// nowhere. For one warp.
__device__ bool find_bin(Room& room) {
  constexpr int kEach = kBins / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Wide mine = 0, before = 0;
  for (int i = 0; i < kEach; ++i) mine += room.sums[lane * kEach + i];
  int group = 0;
  for (; group < 32; ++group) {
    const Wide sum = __shfl_sync(0xffffffffu, mine, group);
    if (before + sum > room.target) break;
    before += sum;
  }
  if (group == 32) return false;
  int bin = group * kEach;
  while (before + room.sums[bin] <= room.target) before += room.sums[bin++];
  __syncwarp();
  if (lane == 0) {
    room.target -= before;
    room.bin = static_cast<unsigned>(bin);
    room.count = room.counts[bin];
  }
  return true;
}

// The first kept token, by descending probability or ascending id, at which the sum of the values exceeds
// `target`: its key; 0: none.
template <typename Value>
__device__ Wide first_beyond(const Row& row, bool by_id, Value value, Wide target, Room& room) {
  constexpr int kRankDigits = kRankBits / kDigitBits, kDigits = kRankDigits + 64 / kDigitBits;
  uint32_t rank = 0;  // the digits found so far: of the rank, then - among equals - of the key, turned round
  Wide key = 0;
  int digit = 0;
  const auto matches = [&](int i, float x, int digits) {
    if (!row.keeps(x, i)) return false;
    const uint32_t r = by_id ? static_cast<uint32_t>(i) : row.rank(x);
    if (digits <= kRankDigits) return digits == 0 || r >> (kRankBits - kDigitBits * digits) == rank;
    return r == rank && ~key_of(x, i) >> (64 - kDigitBits * (digits - kRankDigits)) == key;
  };
  if (threadIdx.x == 0) {
    room.target = target;
    room.bin = kBins;
  }
  for (; digit < kDigits; ++digit) {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) room.sums[i] = 0, room.counts[i] = 0;
    __syncthreads();
    for (int first = 0; first < row.vocab; first += kThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      int bin = -1;
      Wide weight = 0;
      if (i < row.vocab) {
        const float x = row.logits[i];
        if (matches(i, x, digit) && (weight = value(x)) > 0) {
          const uint32_t r = by_id ? static_cast<uint32_t>(i) : row.rank(x);
          bin = digit < kRankDigits
                    ? static_cast<int>(r >> (kRankBits - kDigitBits * (digit + 1)) & (kBins - 1))
                    : static_cast<int>(~key_of(x, i) >> (64 - kDigitBits * (digit + 1 - kRankDigits)) &
                                       (kBins - 1));
        }
      }
      count_in(bin, weight, room);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const bool found = find_bin(room);
      if (!found && threadIdx.x == 0) room.bin = kBins;
    }
    __syncthreads();
    const unsigned bin = room.bin, count = room.count;
    __syncthreads();
    if (bin == kBins) return 0;
    if (digit < kRankDigits)
      rank = rank << kDigitBits | bin;
    else
      key = key << kDigitBits | bin;
    if (count == 1) {
      ++digit;
      break;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += kThreads)
    if (const float x = row.logits[i]; matches(i, x, digit) && value(x) > 0) room.key = key_of(x, i);
  __syncthreads();
  const Wide found = room.key;
  __syncthreads();
  return found;
}

// Edits of one id follow each other.
__device__ void apply_edits(const ChooseArgs& a, const ChoiceRow& choice, const Row& row) {
  const LogitEdit* edits = a.edits + choice.first_edit;
  for (int e = static_cast<int>(threadIdx.x); e < choice.edits; e += kThreads) {
    const int id = edits[e].id;
    if (e > 0 && edits[e - 1].id == id) continue;
    const float original = row.logits[id];
    float x = original;
    for (int k = e; k < choice.edits && edits[k].id == id; ++k) x = edits[k].of(x);
    row.logits[id] = x;
    a.originals[choice.first_edit + e] = original;
  }
}

__device__ Wide draw(const ChoiceRow& choice, Row& row, Room& room) {
  const Weights by_temperature{row.max, choice.temperature}, plain{row.max, 1.0f};
  if (choice.top_k > 0)
    if (const Wide key = first_beyond(row, false, Ones{}, static_cast<Wide>(choice.top_k - 1), room))
      row.least_key = key;
  if (choice.top_p < 1.0f) {
    const double share =
        ceil(static_cast<double>(choice.top_p) * static_cast<double>(total_of(row, plain, room)));
    const Wide target = share > 1.0 ? static_cast<Wide>(share) - 1 : 0;
    if (const Wide key = first_beyond(row, false, plain, target, room)) row.least_key = key;
  }
  if (choice.log_min_p > -INFINITY) row.least = row.max + choice.log_min_p;
  const bool by_id = choice.top_k == 0 && choice.top_p >= 1.0f;
  const Wide total = total_of(row, by_temperature, room);
  const Wide target = static_cast<Wide>(choice.u * static_cast<double>(total));
  return first_beyond(row, by_id, by_temperature, target < total ? target : total - 1, room);
}

__global__ void __launch_bounds__(kThreads, 1) choose_kernel(const ChooseArgs a) {
  after_previous();
  Room& room = *shared_memory<Room>();
  const ChoiceRow choice = a.rows[blockIdx.x];
  Row row{a.logits + blockIdx.x * a.stride, a.vocab};
  const auto answer = [&](ChoiceStatus status, int token, float value, float logprob) {
    if (threadIdx.x == 0) a.out[blockIdx.x] = {token, status, value, logprob};
  };
  Best best = best_of(row, room);
  if (best.bad >= 0) return answer(ChoiceStatus::BadLogit, best.bad, row.logits[best.bad], 0.0f);
  row.max = logit_of(best.key);
  if (row.max == -INFINITY) return answer(ChoiceStatus::NoLogits, -1, 0.0f, 0.0f);
  float log_total = 0.0f;
  if (choice.logprob)
    log_total = row.max + static_cast<float>(
                              log(static_cast<double>(total_of(row, Weights{row.max, 1.0f}, room)) / kOne));

  if (choice.mask >= 0) {
    const uint32_t* mask = a.masks + choice.mask;
    for (int i = static_cast<int>(threadIdx.x); i < a.vocab; i += kThreads)
      if (!(mask[i / 32] >> i % 32 & 1)) row.logits[i] = -INFINITY;
    __syncthreads();
  }
  apply_edits(a, choice, row);
  __syncthreads();
  if (choice.mask >= 0 || choice.edits > 0) {
    best = best_of(row, room);
    if (best.bad >= 0) return answer(ChoiceStatus::Overflow, best.bad, 0.0f, 0.0f);
    row.max = logit_of(best.key);
    if (best.key == 0 || row.max == -INFINITY) return answer(ChoiceStatus::NothingLeft, -1, 0.0f, 0.0f);
  }
  const Wide chosen = choice.temperature == 0.0f ? best.key : draw(choice, row, room);

  const int token = id_of(chosen);
  if (threadIdx.x == 0) room.value = row.logits[token];
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < choice.edits; e += kThreads)
    if (const LogitEdit* edit = a.edits + choice.first_edit + e;
        edit->id == token && (e == 0 || edit[-1].id != token))
      room.value = a.originals[choice.first_edit + e];
  __syncthreads();
  answer(ChoiceStatus::Chosen, token, 0.0f, choice.logprob ? room.value - log_total : 0.0f);
}

}  // namespace

void choose(Stream& stream, const ChooseArgs& args) {
  stream.launch(&choose_kernel, static_cast<unsigned>(args.count), kThreads, sizeof(Room), args);
}

}  // namespace pyllm::cuda
