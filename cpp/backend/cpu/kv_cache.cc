#include "backend/cpu/kv_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/batch.h"
#include "core/half.h"

namespace pyllm::cpu {

namespace {

constexpr int kGroup = 32;  // elements that share a scale

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

uint16_t half_bits(float x) { return to_half(x).bits; }

// Codes of up to kGroup elements (kLevels behind them) and the bits of their scale: value = (code - kLevels) *
// scale, codes below 2 * kLevels. The scale is fitted by least squares to the codes of each of a few first
// guesses, as wide as the element of the largest magnitude or narrower; the best pair stays.
template <int kLevels>
uint16_t quantize_bits(const float* x, int n, uint8_t* code) {
  float padded[kGroup] = {}, extreme = 0.0f, poison = 0.0f;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    poison += x[i] * 0.0f;  // NaN where an element is not finite: it must reach the logits
    padded[i] = x[i];
  }
  std::fill(code, code + kGroup, uint8_t{kLevels});
  if (!(std::fabs(extreme) > 1e-36f) || poison != 0.0f) return half_bits(extreme + poison);
  float best = -1.0f, scale = 0.0f;
  for (const float beyond : {-1.2f, -0.8f, -0.4f, 0.0f}) {
    const float inverse = -(kLevels + beyond) / extreme;
    int level[kGroup], squares = 0;
    float products[4] = {};
    for (int i = 0; i < kGroup; ++i) {
      const float shifted = padded[i] * inverse + (kLevels + 0.5f);
      level[i] = static_cast<int>(std::min(shifted, 2 * kLevels - 0.5f)) - kLevels;
      squares += level[i] * level[i];
    }
    for (int i = 0; i < kGroup; i += 4)
      for (int k = 0; k < 4; ++k) products[k] += padded[i + k] * static_cast<float>(level[i + k]);
    const float fit = ((products[0] + products[1]) + (products[2] + products[3])) / static_cast<float>(squares);
    // Of the squared error this is what the fit takes away.
    const float gain = fit * fit * static_cast<float>(squares);
    if (!(gain > best)) continue;
    best = gain;
    scale = fit;
    for (int i = 0; i < kGroup; ++i) code[i] = static_cast<uint8_t>(level[i] + kLevels);
  }
  return half_bits(scale);
}

// Calls f(group, its first element, its elements).
template <typename F>
void for_groups(int dim, F f) {
  for (int first = 0; first < dim; first += kGroup) f(first / kGroup, first, std::min(kGroup, dim - first));
}

// Codes of up to kGroup elements and the bits of their scale: value = code * scale.
uint16_t quantize_8bit(const Kernels& kernels, const float* x, int n, int8_t* code) {
  float padded[kGroup] = {}, scale;
  int32_t sums[2];
  std::copy_n(x, n, padded);
  kernels.quantize(padded, kGroup, 1, code, &scale, sums);
  return half_bits(scale);
}

void store_key(const Kernels& kernels, const KvLayout& l, uint8_t* block, int slot, const float* key) {
  auto* scales = reinterpret_cast<uint16_t*>(block + l.key_scales) + slot;
  for_groups(l.head_dim, [&](int group, int first, int n) {
    uint8_t* to = block + slot;
    if (l.type.keys == KvElement::Half) {
      uint16_t halves[kGroup];
      kernels.to_half(key + first, n, halves);
      for (int i = 0; i < n; ++i)
        reinterpret_cast<uint16_t*>(block)[(first + i) * kBlockTokens + slot] = halves[i];
    } else if (l.type.keys == KvElement::Bits8) {
      int8_t code[kGroup];
      scales[group * kBlockTokens] = quantize_8bit(kernels, key + first, n, code);
      for (int i = 0; i < n; ++i) to[(first + i) * kBlockTokens] = static_cast<uint8_t>(code[i]);
    } else {
      uint8_t code[kGroup];
      const bool six = l.type.keys == KvElement::Bits6;
      scales[group * kBlockTokens] =
          six ? quantize_bits<32>(key + first, n, code) : quantize_bits<8>(key + first, n, code);
      for (int i = 0; i < n; i += 2)
        to[(first + i) / 2 * kBlockTokens] = static_cast<uint8_t>((code[i] & 15) | code[i + 1] << 4);
      for (int i = 0; six && i < n; i += 4)
        to[l.key_high + (first + i) / 4 * kBlockTokens] = static_cast<uint8_t>(
            code[i] >> 4 | code[i + 1] >> 4 << 2 | code[i + 2] >> 4 << 4 | code[i + 3] >> 4 << 6);
    }
  });
}

void store_value(const Kernels& kernels, const KvLayout& l, uint8_t* block, int slot, const float* value) {
  uint8_t* values = block + l.values;
  auto* scales = reinterpret_cast<uint16_t*>(block + l.value_scales) + slot;
  if (l.type.values == KvElement::Half)
    return kernels.to_half(value, l.head_dim, reinterpret_cast<uint16_t*>(values) + slot * l.padded_dim);
  for_groups(l.head_dim, [&](int group, int first, int n) {
    if (l.type.values == KvElement::Bits8) {
      int8_t code[kGroup];
      scales[group * kBlockTokens] = quantize_8bit(kernels, value + first, n, code);
      std::copy_n(code, n, reinterpret_cast<int8_t*>(values) + slot * l.padded_dim + first);
    } else {
      uint8_t code[kGroup];
      scales[group * kBlockTokens] = quantize_bits<8>(value + first, n, code);
      uint8_t* to = values + (slot * l.padded_dim + first) / 2;
      for (int i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>(code[i] | code[16 + i] << 4);
    }
  });
}

void hadamard(float* x, int n) {
  for (int half = 1; half < n; half *= 2)
    for (int i = 0; i < n; i += 2 * half)
      for (int k = i; k < i + half; ++k) {
        const float a = x[k], b = x[k + half];
        x[k] = a + b;
        x[k + half] = a - b;
      }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

KvLayout kv_layout(KvType type, int head_dim) {
  const auto scale_bytes = [&](KvElement element) {
    return element == KvElement::Half ? 0 : round_up(head_dim, kGroup) / kGroup * kBlockTokens * 2;
  };
  const auto bytes = [&](KvElement element, int64_t features) {
    return kBlockTokens * (element == KvElement::Half    ? 2 * features
                           : element == KvElement::Bits8 ? features
                                                         : (features + 1) / 2);
  };
  KvLayout l{};
  l.type = type;
  l.head_dim = head_dim;
  l.padded_dim = static_cast<int>(round_up(head_dim, type.values == KvElement::Bits4 ? kGroup : 16));
  l.key_high = bytes(type.keys, head_dim);
  l.key_scales = l.key_high + (type.keys == KvElement::Bits6 ? kBlockTokens * ((head_dim + 3) / 4) : 0);
  l.values = l.key_scales + scale_bytes(type.keys);
  l.value_scales = l.values + bytes(type.values, l.padded_dim);
  l.bytes = l.value_scales + scale_bytes(type.values);
  return l;
}

void store_token(const Kernels& kernels, const KvLayout& layout, uint8_t* block, int slot, const float* key,
                 const float* value) {
  store_key(kernels, layout, block, slot, key);
  store_value(kernels, layout, block, slot, value);
}

void rotate(float* x, int n) {
  while (n > 0) {
    const int run = static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
    hadamard(x, run);
    x += run;
    n -= run;
  }
}

CpuKvCache::CpuKvCache(const KvShape& kv_shape, KvType type, int kv_blocks)
    : shape(kv_shape),
      layout(kv_layout(type, kv_shape.head_dim)),
      blocks(kv_blocks),
      memory(layout.bytes * shape.kv_heads * shape.layers * blocks) {}

}  // namespace pyllm::cpu
