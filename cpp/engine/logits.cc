#include "engine/logits.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace pyllm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kHighest = std::numeric_limits<float>::max();

size_t chunks(std::span<const float> logits) { return (logits.size() + kChunk - 1) / kChunk; }

std::span<const float> chunk(std::span<const float> logits, size_t index) {
  const size_t first = index * kChunk;
  return logits.subspan(first, std::min<size_t>(kChunk, logits.size() - first));
}

// Copies into a whole chunk, filled up with `rest`: loops of constant length become vector code.
void load(std::span<const float> x, float rest, float out[kChunk]) {
  std::copy(x.begin(), x.end(), out);
  std::fill(out + x.size(), out + kChunk, rest);
}

float clamp_exponent(float x) { return x > -88.0f ? x : -88.0f; }  // 2^-127 has the bits of 0

// exp of a clamped exponent. Branch-free, so that loops over it become vector code.
// Coefficients: minimax on [-ln2/2, ln2/2] (Cephes expf).
inline float exp_clamped(float x) {
  const float shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000u + 127u) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

}  // namespace

float exp_negative(float x) { return exp_clamped(clamp_exponent(x)); }

Scan scan(std::span<const float> logits, std::vector<float>& chunk_max) {
  chunk_max.resize(chunks(logits));
  int32_t invalid = 0;
  for (size_t c = 0; c < chunk_max.size(); ++c) {
    float x[kChunk];
    load(chunk(logits, c), -kInfinity, x);
    for (int i = 0; i < kChunk; ++i) invalid |= x[i] <= kHighest ? 0 : 1;
    for (int half = kChunk / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    chunk_max[c] = x[0];
  }
  Scan result;
  if (invalid) {
    const auto bad = [](float x) { return !(x <= kHighest); };
    result.bad = static_cast<int32_t>(std::find_if(logits.begin(), logits.end(), bad) - logits.begin());
    return result;
  }
  const auto best = std::max_element(chunk_max.begin(), chunk_max.end());
  if (best == chunk_max.end() || *best < kLowest) return result;
  result.max = *best;
  const size_t first = static_cast<size_t>(best - chunk_max.begin()) * kChunk;
  result.argmax =
      static_cast<int32_t>(std::find(logits.begin() + first, logits.end(), result.max) - logits.begin());
  return result;
}

void apply_mask(std::span<const uint32_t> mask, std::span<float> logits) {
  for (size_t first = 0; first < logits.size(); first += 32) {
    const uint32_t bits = mask[first / 32];
    if (bits == ~0u) continue;
    const std::span<float> x = logits.subspan(first, std::min<size_t>(32, logits.size() - first));
    for (size_t i = 0; i < x.size(); ++i)
      if (!(bits >> i & 1)) x[i] = -kInfinity;
  }
}

bool within(std::span<const uint32_t> mask, std::span<const int32_t> ids) {
  for (size_t word = 0; word < mask.size(); ++word)
    for (uint32_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      const auto id = static_cast<int32_t>(word * 32) + std::countr_zero(bits);
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) return false;
    }
  return true;
}

void gather(std::span<const float> logits, const std::vector<float>& chunk_max, float cut,
            std::vector<Candidate>& out) {
  for (size_t c = 0; c < chunk_max.size(); ++c) {
    if (!(chunk_max[c] >= cut)) continue;
    const std::span<const float> x = chunk(logits, c);
    for (size_t i = 0; i < x.size(); ++i)
      if (x[i] >= cut) out.push_back({static_cast<int32_t>(c * kChunk + i), x[i]});
  }
}

void gather_top(std::span<const float> logits, const std::vector<float>& chunk_max, float cut, int k,
                std::vector<float>& buffer, std::vector<Candidate>& out) {
  const size_t wanted = static_cast<size_t>(k);
  if (wanted <= chunk_max.size()) {
    // The k-th largest chunk maximum: at least k logits reach it, so none below it can be among the top k.
    buffer.assign(chunk_max.begin(), chunk_max.end());
    std::nth_element(buffer.begin(), buffer.begin() + (k - 1), buffer.end(), std::greater<>());
    cut = std::max(cut, buffer[wanted - 1]);
  }
  gather(logits, chunk_max, cut, out);
  if (out.size() > wanted) {
    std::nth_element(out.begin(), out.begin() + k, out.end(), more_probable);
    out.resize(wanted);
  }
  std::sort(out.begin(), out.end(), more_probable);
}

double exp_sum(std::span<const float> logits, float max, float temperature, std::vector<float>& chunk_sum) {
  chunk_sum.resize(chunks(logits));
  double total = 0.0;
  for (size_t c = 0; c < chunk_sum.size(); ++c) {
    float x[kChunk];
    load(chunk(logits, c), -kInfinity, x);
    for (int i = 0; i < kChunk; ++i) x[i] = clamp_exponent((x[i] - max) / temperature);
    for (int i = 0; i < kChunk; ++i) x[i] = exp_clamped(x[i]);
    for (int half = kChunk / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) x[i] += x[i + half];
    chunk_sum[c] = x[0];
    total += x[0];
  }
  return total;
}

double deviation(std::span<const float> logits) {
  double sum = 0.0, squares = 0.0;
  int64_t count = 0;
  for (const float x : logits) {
    if (x < kLowest) continue;
    sum += x;
    ++count;
  }
  if (count == 0) return 0.0;
  const double mean = sum / static_cast<double>(count);
  for (const float x : logits)
    if (x >= kLowest) squares += (x - mean) * (x - mean);
  return std::sqrt(squares / static_cast<double>(count));
}

}  // namespace pyllm
