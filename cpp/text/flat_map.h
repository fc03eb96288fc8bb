// Hash tables with open addressing, for vocabularies: built once, then only asked.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace pyllm::text {

inline constexpr uint32_t none = UINT32_MAX;

// Text -> index in the list it was built from. Of equal texts the first one stays.
class TextIndex {
 public:
  explicit TextIndex(std::span<const std::string_view> texts)
      : texts_(texts), slots_(std::bit_ceil(texts.size() * 2 + 2)) {
    for (uint32_t i = 0; i < texts.size(); ++i) {
      Slot& slot = find(texts[i]);
      if (slot.index == none) slot = {tag(hash(texts[i])), i};
    }
  }

  uint32_t operator[](std::string_view text) const { return const_cast<TextIndex*>(this)->find(text).index; }

 private:
  struct Slot {
    uint32_t tag = 0, index = none;
  };

  static size_t hash(std::string_view text) { return std::hash<std::string_view>{}(text); }
  static uint32_t tag(size_t hash) { return static_cast<uint32_t>(hash >> 32); }

  Slot& find(std::string_view text) {
    const size_t h = hash(text);
    for (size_t at = h & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
      Slot& slot = slots_[at];
      if (slot.index == none || (slot.tag == tag(h) && texts_[slot.index] == text)) return slot;
    }
  }

  std::span<const std::string_view> texts_;
  std::vector<Slot> slots_;
};

// A pair of token ids -> index. Of equal pairs the first one stays.
class PairIndex {
 public:
  explicit PairIndex(size_t capacity) : slots_(std::bit_ceil(capacity * 2 + 2)) {}

  // False when the pair was there already.
  bool insert(uint32_t left, uint32_t right, uint32_t index) {
    Slot& slot = find(key(left, right));
    if (slot.index != none) return false;
    slot = {key(left, right), index};
    return true;
  }

  uint32_t operator()(uint32_t left, uint32_t right) const {
    return const_cast<PairIndex*>(this)->find(key(left, right)).index;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t index = none;
  };

  static uint64_t key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

  Slot& find(uint64_t key) {
    const uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    for (size_t at = (mixed ^ mixed >> 32) & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
      Slot& slot = slots_[at];
      if (slot.index == none || slot.key == key) return slot;
    }
  }

  std::vector<Slot> slots_;
};

}  // namespace pyllm::text
