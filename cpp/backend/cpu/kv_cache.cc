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

// Codes of up to kGroup elements and the scale: value = (code - 8) * scale. As Q4_0 of GGUF: the element of the
// largest magnitude gets code 0.
float quantize_4bit(const float* x, int n, uint8_t* code) {
  float extreme = 0.0f, poison = 0.0f;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    poison += x[i] * 0.0f;  // NaN where an element is not finite: it must reach the logits
  }
  const float scale = extreme / -8.0f;
  const float inverse = std::fabs(extreme) > 1e-36f && poison == 0.0f ? 1.0f / scale : 0.0f;
  for (int i = 0; i < n; ++i) {
    const float shifted = poison == 0.0f ? x[i] * inverse + 8.5f : 8.0f;
    code[i] = static_cast<uint8_t>(std::min(15, static_cast<int>(shifted)));
  }
  return scale + poison;
}

void store_half(const Kernels& kernels, const KvLayout& l, uint8_t* block, int slot, const float* key,
                const float* value) {
  auto* keys = reinterpret_cast<uint16_t*>(block);
  uint16_t halves[256];
  for (int first = 0; first < l.head_dim; first += 256) {
    const int n = std::min(256, l.head_dim - first);
    kernels.to_half(key + first, n, halves);
    for (int d = 0; d < n; ++d) keys[(first + d) * kBlockTokens + slot] = halves[d];
  }
  kernels.to_half(value, l.head_dim, reinterpret_cast<uint16_t*>(block + l.values) + slot * l.padded_dim);
}

// Calls f(group, its first element, its elements).
template <typename F>
void for_groups(int dim, F f) {
  for (int first = 0; first < dim; first += kGroup) f(first / kGroup, first, std::min(kGroup, dim - first));
}

void store_8bit(const Kernels& kernels, const KvLayout& l, uint8_t* block, int slot, const float* key,
                const float* value) {
  auto* key_scales = reinterpret_cast<uint16_t*>(block + l.key_scales) + slot;
  auto* value_scales = reinterpret_cast<uint16_t*>(block + l.value_scales) + slot;
  const auto quantize = [&](const float* x, int n, int8_t* code) {
    float padded[kGroup] = {}, scale;
    int32_t sums[2];
    std::copy_n(x, n, padded);
    kernels.quantize(padded, kGroup, 1, code, &scale, sums);
    return half_bits(scale);
  };
  for_groups(l.head_dim, [&](int group, int first, int n) {
    int8_t code[kGroup];
    key_scales[group * kBlockTokens] = quantize(key + first, n, code);
    for (int i = 0; i < n; ++i) block[(first + i) * kBlockTokens + slot] = static_cast<uint8_t>(code[i]);
    value_scales[group * kBlockTokens] = quantize(value + first, n, code);
    std::copy_n(code, n, reinterpret_cast<int8_t*>(block + l.values) + slot * l.padded_dim + first);
  });
}

void store_4bit(const KvLayout& l, uint8_t* block, int slot, const float* key, const float* value) {
  auto* key_scales = reinterpret_cast<uint16_t*>(block + l.key_scales) + slot;
  auto* value_scales = reinterpret_cast<uint16_t*>(block + l.value_scales) + slot;
  uint8_t* values = block + l.values + slot * (l.padded_dim / 2);
  for_groups(l.head_dim, [&](int group, int first, int n) {
    uint8_t code[kGroup];
    std::fill(code, code + kGroup, 8);
    key_scales[group * kBlockTokens] = half_bits(quantize_4bit(key + first, n, code));
    for (int i = 0; i < n; i += 2)
      block[(first + i) / 2 * kBlockTokens + slot] = static_cast<uint8_t>(code[i] | code[i + 1] << 4);
    std::fill(code, code + kGroup, 8);
    value_scales[group * kBlockTokens] = half_bits(quantize_4bit(value + first, n, code));
    for (int i = 0; i < 16; ++i) values[first / 2 + i] = static_cast<uint8_t>(code[i] | code[16 + i] << 4);
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
  KvLayout l{};
  l.type = type;
  l.head_dim = head_dim;
  const int64_t scales = round_up(head_dim, kGroup) / kGroup * kBlockTokens * 2;
  int64_t key_bytes = 0, value_bytes = 0;
  switch (type) {
    case KvType::F16:
      l.padded_dim = static_cast<int>(round_up(head_dim, 16));
      key_bytes = int64_t{2} * kBlockTokens * head_dim;
      value_bytes = int64_t{2} * kBlockTokens * l.padded_dim;
      break;
    case KvType::Q8_0:
      l.padded_dim = static_cast<int>(round_up(head_dim, 16));
      key_bytes = int64_t{kBlockTokens} * head_dim;
      value_bytes = int64_t{kBlockTokens} * l.padded_dim;
      break;
    case KvType::Q4_0:
      l.padded_dim = static_cast<int>(round_up(head_dim, kGroup));
      key_bytes = int64_t{kBlockTokens} * round_up(head_dim, 2) / 2;
      value_bytes = int64_t{kBlockTokens} * l.padded_dim / 2;
      break;
  }
  l.key_scales = key_bytes;
  l.values = key_bytes + (type == KvType::F16 ? 0 : scales);
  l.value_scales = l.values + value_bytes;
  l.bytes = l.value_scales + (type == KvType::F16 ? 0 : scales);
  return l;
}

void store_token(const Kernels& kernels, const KvLayout& layout, uint8_t* block, int slot, const float* key,
                 const float* value) {
  switch (layout.type) {
    case KvType::F16:
      return store_half(kernels, layout, block, slot, key, value);
    case KvType::Q8_0:
      return store_8bit(kernels, layout, block, slot, key, value);
    case KvType::Q4_0:
      return store_4bit(layout, block, slot, key, value);
  }
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
