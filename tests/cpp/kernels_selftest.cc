// Every kernel of every instruction set that this machine has against its scalar twin, bit for bit, on seeded
// random input at odd sizes.
//
//     kernels_selftest [ISA ...]
//
// prints "N passed, M failed" and exits with 1 when one failed or a named ISA is not there.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/kv_cache.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/select.h"
#include "core/error.h"
#include "core/half.h"
#include "quant/types.h"

namespace pyllm::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr int kWidths[] = {1, 2, 4, 8};  // columns of a matmul tile

int passed = 0, failed = 0;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int between(int low, int high) {
    return low + static_cast<int>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  float real(float size = 1.0f) { return (static_cast<float>(bits() >> 40) / 8388608.0f - 1.0f) * size; }

 private:
  uint64_t state_;
};

std::vector<float> random_floats(Random& random, int64_t n, float size = 1.0f) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = random.real(size);
  return x;
}

std::vector<uint16_t> random_halves(Random& random, int64_t n, float size = 1.0f) {
  std::vector<uint16_t> x(static_cast<size_t>(n));
  for (uint16_t& v : x) v = to_half(random.real(size)).bits;
  return x;
}

bool same(float a, float b) { return float_to_bits(a) == float_to_bits(b) || (std::isnan(a) && std::isnan(b)); }
bool same(uint16_t a, uint16_t b) {  // halves
  return a == b || ((a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00);
}
template <typename T>
bool same(T a, T b) {
  return a == b;
}

// One check: `got` of `isa` equals `expected`; the name is only built when it does not.
template <typename T>
void check(const char* isa, const std::function<std::string()>& name, const std::vector<T>& got,
           const std::vector<T>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (same(got[i], expected[i])) continue;
    ++failed;
    std::printf("FAILED %s %s [%zu]: expected %.9g, got %.9g\n", isa, name().c_str(), i,
                static_cast<double>(expected[i]), static_cast<double>(got[i]));
    return;
  }
  ++passed;
}

// A panel as layout.h describes it: random scales and mins of ordinary size, random codes.
template <typename Q>
std::vector<uint8_t> random_panel(Random& random, int64_t columns) {
  constexpr Layout L = layout_of<Q>();
  const int64_t scale_bytes = L.scale_bytes(columns);
  std::vector<uint8_t> panel(static_cast<size_t>(L.panel_bytes(columns)));
  for (uint8_t& byte : panel) byte = static_cast<uint8_t>(random.bits());
  // Codes of 8 bits with another zero than 128 keep within 7 bits: the kernels' contract.
  if (L.code_bits == 8 && L.zero != 128)
    for (size_t i = static_cast<size_t>(scale_bytes); i < panel.size(); ++i) panel[i] &= 127;
  const int parts = L.has_min ? 2 : 1;
  if (L.scales == quant::Scales::Float) {
    const std::vector<float> scales = random_floats(random, scale_bytes / 4);
    std::memcpy(panel.data(), scales.data(), static_cast<size_t>(scale_bytes));
  } else {
    // Half: nothing but halves. Super: per 256 columns first the halves, then bytes as random as they are.
    const int64_t run = L.scales == quant::Scales::Half ? scale_bytes : 32 * parts;
    const int64_t period = L.scales == quant::Scales::Half ? scale_bytes : parts * (32 + 256 / L.group * 16);
    for (int64_t at = 0; at + period <= scale_bytes; at += period) {
      const std::vector<uint16_t> halves = random_halves(random, run / 2, 0.01f);
      std::memcpy(panel.data() + at, halves.data(), static_cast<size_t>(run));
    }
  }
  return panel;
}

// Quantized activations of a tile, with the sums that its layout wants.
struct Activations {
  std::vector<int8_t> q;
  std::vector<float> scale, sum;
  std::vector<int32_t> init;

  Activations(Random& random, int64_t steps, int width, const Layout& layout) {
    const int groups = layout.groups_per_step();
    init.resize(static_cast<size_t>(steps * groups * width));
    sum.resize(init.size());
    for (int64_t i = 0; i < steps * width; ++i) {
      const int extreme = random.between(0, 3);  // now and then all products as large as they get
      int32_t sums[2] = {};
      for (int k = 0; k < kStep; ++k) {
        q.push_back(static_cast<int8_t>(extreme == 0 ? 127 : extreme == 1 ? -127 : random.between(-127, 127)));
        sums[k * groups / kStep] += q.back();
      }
      scale.push_back(random.real());
      for (int g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>((i / width * groups + g) * width + i % width);
        init[at] = -layout.zero * sums[g];
        sum[at] = static_cast<float>(sums[g]);
      }
    }
  }
};

template <typename Q>
void test_matmul(const Kernels& kernels, const Kernels& twin) {
  Random random(static_cast<uint64_t>(Q::type));
  constexpr Layout layout = layout_of<Q>();
  const uint8_t* table = nullptr;
  if constexpr (quant::has_table<Q>) table = Q::table;
  const MatmulKernels *mine = kernels.matmul(layout), *its = twin.matmul(layout);
  for (const int blocks : {1, 2, 3}) {
    const int64_t columns = blocks * Q::block;
    std::vector<uint8_t> panels = random_panel<Q>(random, columns);
    const std::vector<uint8_t> second = random_panel<Q>(random, columns);
    panels.insert(panels.end(), second.begin(), second.end());
    for (int k = 0; k < 4; ++k) {
      const Activations x(random, columns / kStep, kWidths[k], layout);
      const ActivationTile tile = {x.q.data(), x.scale.data(), x.init.data(), x.sum.data()};
      for (const int rows : {16, random.between(1, 15), 32, random.between(17, 31)}) {
        const int64_t stride = 35;  // what lies between the rows must stay as it is
        const bool add = random.between(0, 1) == 1, both = rows > 16;
        std::vector<float> got = random_floats(random, stride * kWidths[k]), expected = got;
        mine->tile[both][k](panels.data(), columns, table, tile, {got.data(), stride, rows, add});
        its->tile[both][k](panels.data(), columns, table, tile, {expected.data(), stride, rows, add});
        check(
            kernels.name,
            [&] {
              return message("matmul ", type_info(Q::type).name, " ", rows, " ", columns, " ", kWidths[k]);
            },
            got, expected);
      }
    }
  }
}

// Rows of blocks as random as they are, but for halves that are finite: what lies in the last panel's missing
// rows is never read.
template <typename Q>
void test_pack(const Kernels& kernels) {
  Random random(static_cast<uint64_t>(Q::type));
  for (const int blocks : {1, 2, 3, 8}) {
    const int64_t columns = blocks * Q::block, rows = 2 * kPanelRows + 5;
    std::vector<uint8_t> data(static_cast<size_t>(rows * blocks) * sizeof(typename Q::Block));
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.bits());
    for (size_t i = 1; i < data.size(); i += 2)  // wherever the halves lie: at even offsets
      if ((data[i] & 0x7c) == 0x7c) data[i] ^= 0x40;
    const auto* source = reinterpret_cast<const std::byte*>(data.data());
    for (int64_t row = 0; row < rows; row += kPanelRows) {
      std::vector<uint8_t> got(static_cast<size_t>(panel_bytes(Q::type, columns)), 99), expected = got;
      pack_panel(kernels, Q::type, source, rows, columns, row, reinterpret_cast<std::byte*>(got.data()));
      pack_panel(Q::type, source, rows, columns, row, reinterpret_cast<std::byte*>(expected.data()));
      check(
          kernels.name, [&] { return message("pack ", type_info(Q::type).name, " ", columns, " ", row); }, got,
          expected);
    }
  }
}

template <typename Element>
void test_float_matmul(const Kernels& kernels, const Kernels& twin, Type type,
                       const std::vector<Element>& panel) {
  Random random(11);
  const int64_t columns = static_cast<int64_t>(panel.size()) / (2 * kPanelRows);
  for (int k = 0; k < 4; ++k) {
    const std::vector<float> x = random_floats(random, columns * kWidths[k]);
    for (const int rows : {16, 9, 32, 23}) {
      const bool add = rows == 9 || rows == 32, both = rows > 16;
      std::vector<float> got = random_floats(random, 37 * kWidths[k]), expected = got;
      kernels.matmul_float(type)->tile[both][k](panel.data(), columns, x.data(), {got.data(), 37, rows, add});
      twin.matmul_float(type)->tile[both][k](panel.data(), columns, x.data(), {expected.data(), 37, rows, add});
      check(
          kernels.name,
          [&] { return message("matmul ", type_info(type).name, " ", rows, " ", columns, " ", kWidths[k]); },
          got, expected);
    }
  }
}

void test_float_matmuls(const Kernels& kernels, const Kernels& twin) {
  Random random(12);
  for (const int64_t columns : {1, 7, 33}) {
    test_float_matmul(kernels, twin, Type::F32, random_floats(random, 2 * columns * kPanelRows));
    test_float_matmul(kernels, twin, Type::F16, random_halves(random, 2 * columns * kPanelRows));
  }
  // Every half and every bfloat16, one panel column at a time: the product with 1 is the number itself.
  const float one = 1.0f;
  for (const Type type : {Type::F16, Type::BF16}) {
    std::vector<float> got(65536), expected = got;
    for (uint32_t first = 0; first < 65536; first += kPanelRows) {
      uint16_t panel[kPanelRows];
      for (uint32_t i = 0; i < kPanelRows; ++i) panel[i] = static_cast<uint16_t>(first + i);
      kernels.matmul_float(type)->tile[0][0](panel, 1, &one, {got.data() + first, 16, 16, false});
      twin.matmul_float(type)->tile[0][0](panel, 1, &one, {expected.data() + first, 16, 16, false});
    }
    check(kernels.name, [&] { return message("every ", type_info(type).name); }, got, expected);
  }
}

void test_quantize(const Kernels& kernels, const Kernels& twin) {
  Random random(13);
  std::vector<std::vector<float>> inputs;
  for (const int steps : {1, 3, 8}) inputs.push_back(random_floats(random, steps * kStep, 5.0f));
  inputs.emplace_back(kStep, 0.0f);
  for (const float size : {1e-45f, 1e-39f, 3e-37f, 2e-36f, 1e30f, kLargest})
    inputs.push_back(random_floats(random, 2 * kStep, size));
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity})
    for (int at = 0; at < 2 * kStep; at += 5) {
      inputs.push_back(random_floats(random, 2 * kStep));
      inputs.back()[static_cast<size_t>(at)] = bad;
    }
  inputs.emplace_back(kStep, 127.0f);  // ties: exactly halfway between two codes
  for (int i = 0; i < kStep - 1; ++i) inputs.back()[static_cast<size_t>(i)] = static_cast<float>(i) - 15.5f;

  for (const std::vector<float>& x : inputs) {
    for (const int width : {1, 4}) {  // columns of the tile, of which this is one
      const auto steps = static_cast<int64_t>(x.size()) / kStep;
      const auto blocks = static_cast<size_t>(steps * width);
      std::vector<int8_t> q[2];
      std::vector<float> scale[2];
      std::vector<int32_t> sums[2];
      for (int i = 0; i < 2; ++i) {
        q[i].assign(blocks * kStep, 99);
        scale[i].assign(blocks, 99.0f);
        sums[i].assign(blocks * 2, 99);
        (i == 0 ? kernels : twin)
            .quantize(x.data(), steps * kStep, width, q[i].data(), scale[i].data(), sums[i].data());
        for (size_t b = 0; b < blocks; ++b) {  // codes under a scale that is NaN mean nothing
          if (!std::isnan(scale[i][b])) continue;
          std::memset(q[i].data() + b * kStep, 0, kStep);
          const size_t step = b / static_cast<size_t>(width), column = b % static_cast<size_t>(width);
          for (size_t half = 0; half < 2; ++half)
            sums[i][(2 * step + half) * static_cast<size_t>(width) + column] = 0;
        }
      }
      const auto name = [&] { return message("quantize ", &x - inputs.data(), " ", steps, " ", width); };
      check(kernels.name, name, q[0], q[1]);
      check(kernels.name, name, scale[0], scale[1]);
      check(kernels.name, name, sums[0], sums[1]);
    }
  }
}

// Numbers where operations differ first, then a sweep over what exp() sees, then random ones.
std::vector<float> row_input(Random& random, int64_t n) {
  const float special[] = {0.0f,    -0.0f,    kNan,      kInfinity, -kInfinity, 1e-45f,
                           -1e-40f, kLargest, -kLargest, 87.5f,     -88.5f,     1.0f};
  std::vector<float> x = random_floats(random, n, 4.0f);
  if (n >= 577)
    for (size_t i = 0; i < 400; ++i) x[i] = static_cast<float>(i) * 0.5f - 100.0f;
  if (n == 17 || n >= 577)
    for (size_t i = 0; i < std::size(special); ++i) x[i + static_cast<size_t>(n) - 17] = special[i];
  return x;
}

void test_rows(const Kernels& kernels, const Kernels& twin) {
  Random random(14);
  for (const int64_t n : {1, 15, 16, 17, 64, 100, 577}) {
    const std::vector<float> x = row_input(random, n), y = random_floats(random, n, 3.0f);
    const auto compare = [&](const char* name, const std::function<void(const Kernels&, float*)>& run) {
      std::vector<float> got = x, expected = x;
      got.push_back(-7.0f);
      expected.push_back(-7.0f);
      run(kernels, got.data());
      run(twin, expected.data());
      check(kernels.name, [&] { return message(name, " ", n); }, got, expected);
    };
    compare("add", [&](const Kernels& k, float* out) { k.add(out, y.data(), n); });
    compare("scale", [&](const Kernels& k, float* out) { k.scale(out, 0.3f, n); });
    compare("silu_gate", [&](const Kernels& k, float* out) { k.silu_gate(x.data(), y.data(), n, out); });
    compare("gelu_gate", [&](const Kernels& k, float* out) { k.gelu_gate(x.data(), y.data(), n, out); });
    compare("rope_halves", [&](const Kernels& k, float* out) { k.rope_halves(out, y.data(), n / 2); });
    compare("rope_adjacent", [&](const Kernels& k, float* out) { k.rope_adjacent(out, y.data(), n / 4 * 2); });
    compare("rms_norm", [&](const Kernels& k, float* out) { k.rms_norm(y.data(), y.data(), 1e-6f, n, out); });
    compare("rms_norm of bad input",
            [&](const Kernels& k, float* out) { k.rms_norm(x.data(), y.data(), 0.0f, n, out); });
  }
}

void test_to_half(const Kernels& kernels, const Kernels& twin) {
  // Around every half: itself, the tie to the next one, and the floats on both sides of the tie.
  std::vector<float> x = {kNan, 65520.0f, 65519.996f, 1e-8f, 2.9802322e-8f, 2.9802326e-8f, kLargest};
  for (uint32_t bits = 0; bits < 0x7c00; bits += 3) {
    const float low = to_float(half{static_cast<uint16_t>(bits)}),
                high = to_float(half{static_cast<uint16_t>(bits + 1)});
    const float tie = std::isinf(high) ? 65520.0f : low + (high - low) / 2;
    for (const float v : {low, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, kInfinity)})
      x.push_back(bits % 2 ? -v : v);
  }
  for (const size_t n : {size_t{1}, size_t{15}, size_t{31}, x.size()}) {
    std::vector<uint16_t> got(n + 1, 7), expected = got;
    kernels.to_half(x.data(), static_cast<int64_t>(n), got.data());
    twin.to_half(x.data(), static_cast<int64_t>(n), expected.data());
    check(kernels.name, [&] { return message("to_half ", n); }, got, expected);
  }
}

void test_attend(const Kernels& kernels, const Kernels& twin, const char* type) {
  Random random(15);
  for (const int head_dim : {16, 24, 33, 80, 160}) {
    const KvLayout layout = kv_layout(kv_type_named(type), head_dim);
    for (const int queries : {1, 2, 3, 5, 6, 7, 23, kTileQueries}) {
      for (const int length : {1, 37, kChunk}) {
        for (const bool bad : {false, true}) {
          const float softcap = random.between(0, 1) == 0 ? 0.0f : 30.0f;
          std::vector<uint8_t> cache(static_cast<size_t>(layout.bytes * (kChunk / 16))), stored = cache;
          const uint8_t* blocks[kChunk / 16] = {};
          for (int b = 0; b * 16 < length; ++b) blocks[b] = cache.data() + b * layout.bytes;
          for (int t = 0; t < length; ++t) {
            std::vector<float> key = random_floats(random, head_dim, 2.0f);
            const std::vector<float> value = random_floats(random, head_dim, 2.0f);
            if (bad && t == length - 1) key[2] = kNan, key[3] = kInfinity;  // NaN scores
            store_token(twin, layout, cache.data() + t / 16 * layout.bytes, t % 16, key.data(), value.data());
            store_token(kernels, layout, stored.data() + t / 16 * layout.bytes, t % 16, key.data(),
                        value.data());
          }
          const auto name = [&](const char* what) {
            return message(what, " ", type, " ", head_dim, " ", queries, " ", length, " ", softcap, " ", bad);
          };
          if (!bad) check(kernels.name, [&] { return name("store_token"); }, stored, cache);
          const int groups = (queries + kQueryGroup - 1) / kQueryGroup;
          const std::vector<float> q = random_floats(random, int64_t{head_dim} * groups * kQueryGroup, 2.0f);
          int first[kTileQueries], last[kTileQueries];
          for (int i = 0; i < queries; ++i) {
            last[i] = i == 0 ? length : random.between(0, length);
            first[i] = random.between(0, last[i]);  // some see nothing
          }
          const auto run = [&](const Kernels& k) {
            std::vector<float> out(static_cast<size_t>(queries * (2 + layout.padded_dim)), -7.0f);
            std::vector<float> scores(kTileQueries * kChunk),
                panel(static_cast<size_t>(std::max(head_dim, 64) * 64));
            k.attend({q.data(), queries, layout, blocks, length == kChunk ? blocks : nullptr, first, last,
                      softcap, scores.data(), panel.data(), out.data(), out.data() + queries,
                      out.data() + 2 * queries});
            return out;
          };
          check(kernels.name, [&] { return name("attend"); }, run(kernels), run(twin));
        }
      }
    }
  }
}

void test_merge(const Kernels& kernels, const Kernels& twin) {
  Random random(16);
  const float maxima[] = {-kInfinity, -3.0f, 2.5f, 200.0f, kInfinity, kNan};
  for (const int n : {16, 48, 80})
    for (const float max : maxima)
      for (const float chunk_max : maxima) {
        const std::vector<float> state = random_floats(random, n + 2), chunk = random_floats(random, n);
        const auto run = [&](const Kernels& k) {
          std::vector<float> s = state;
          s[0] = max;
          k.merge(s.data(), s.data() + 1, s.data() + 2, chunk_max, 0.75f, chunk.data(), n);
          return s;
        };
        check(
            kernels.name, [&] { return message("merge ", n, " ", max, " ", chunk_max); }, run(kernels),
            run(twin));
      }
}

void test_all(const Kernels& kernels, const Kernels& twin) {
#define PYLLM_X(Q)                      \
  test_matmul<quant::Q>(kernels, twin); \
  test_pack<quant::Q>(kernels);
  PYLLM_QUANT_TYPES(PYLLM_X)
#undef PYLLM_X
  test_float_matmuls(kernels, twin);
  test_quantize(kernels, twin);
  test_rows(kernels, twin);
  test_to_half(kernels, twin);
  for (const char* type : {"f16", "q8_0", "q8_q4", "q6_q4", "q4_0"}) test_attend(kernels, twin, type);
  test_merge(kernels, twin);
  check(kernels.name, [] { return "int8_ops"; }, std::vector<int64_t>{kernels.int8_ops(3)}, {twin.int8_ops(3)});
}

}  // namespace
}  // namespace pyllm::cpu

int main(int argc, char** argv) {
  using namespace pyllm::cpu;
  const Kernels& twin = select_kernels("scalar");
  std::vector<std::string> tested;
  for (const IsaInfo& info : instruction_sets()) {
    if (!info.supported) std::printf("%s: not on this machine\n", info.kernels->name);
    if (!info.supported || info.kernels == &twin) continue;
    const int before = passed;
    test_all(*info.kernels, twin);
    std::printf("%s: %d passed\n", info.kernels->name, passed - before);
    tested.emplace_back(info.kernels->name);
  }
  for (int i = 1; i < argc; ++i) {
    if (std::find(tested.begin(), tested.end(), argv[i]) != tested.end()) continue;
    ++failed;
    std::printf("FAILED %s: not tested on this machine\n", argv[i]);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
