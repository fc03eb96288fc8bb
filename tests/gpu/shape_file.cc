#include "shape_file.h"

#include <cstring>
#include <fstream>
#include <vector>

#include "compare.h"
#include "core/type.h"

namespace pyllm::compare {

namespace {

constexpr uint64_t kAlign = 32;

class Writer {
 public:
  template <typename T>
  void number(T x) {
    bytes_.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  void text(const std::string& s) {
    number<uint64_t>(s.size());
    bytes_ += s;
  }
  void key(const std::string& name, uint32_t value) {
    text(name);
    number<uint32_t>(4);  // UINT32
    number(value);
  }
  void key(const std::string& name, float value) {
    text(name);
    number<uint32_t>(6);  // FLOAT32
    number(value);
  }
  void key(const std::string& name, const char* value) {
    text(name);
    number<uint32_t>(8);  // STRING
    text(value);
  }
  void pad() { bytes_.resize((bytes_.size() + kAlign - 1) / kAlign * kAlign); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

struct TensorLine {
  std::string name;
  Type type;
  int64_t rows, cols;
  int64_t bytes() const { return rows * (cols / type_info(type).block) * type_info(type).bytes; }
};

std::vector<TensorLine> tensors_of(const LlamaShape& s) {
  const int kv = s.dim / s.heads * s.kv_heads;
  std::vector<TensorLine> all = {{"token_embd.weight", Type::Q4_K, s.vocab, s.dim},
                                 {"output_norm.weight", Type::F32, 1, s.dim},
                                 {"output.weight", Type::Q6_K, s.vocab, s.dim}};
  for (int i = 0; i < s.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    const Type more =
        i < s.layers / 8 || i >= 7 * s.layers / 8 || (i - s.layers / 8) % 3 == 2 ? Type::Q6_K : Type::Q4_K;
    all.insert(all.end(), {{block + "attn_norm.weight", Type::F32, 1, s.dim},
                           {block + "ffn_norm.weight", Type::F32, 1, s.dim},
                           {block + "attn_q.weight", Type::Q4_K, s.dim, s.dim},
                           {block + "attn_k.weight", Type::Q4_K, kv, s.dim},
                           {block + "attn_v.weight", more, kv, s.dim},
                           {block + "attn_output.weight", Type::Q4_K, s.dim, s.dim},
                           {block + "ffn_gate.weight", Type::Q4_K, s.ffn, s.dim},
                           {block + "ffn_up.weight", Type::Q4_K, s.ffn, s.dim},
                           {block + "ffn_down.weight", more, s.dim, s.ffn}});
  }
  return all;
}

}  // namespace

int64_t write_llama(const LlamaShape& shape, const std::string& path) {
  const std::vector<TensorLine> tensors = tensors_of(shape);
  Writer header;
  for (const char c : {'G', 'G', 'U', 'F'}) header.number(c);
  header.number<uint32_t>(3);
  header.number<uint64_t>(tensors.size());
  header.number<uint64_t>(9);
  header.key("general.architecture", "llama");
  header.key("llama.context_length", 8192u);
  header.key("llama.embedding_length", static_cast<uint32_t>(shape.dim));
  header.key("llama.block_count", static_cast<uint32_t>(shape.layers));
  header.key("llama.feed_forward_length", static_cast<uint32_t>(shape.ffn));
  header.key("llama.attention.head_count", static_cast<uint32_t>(shape.heads));
  header.key("llama.attention.head_count_kv", static_cast<uint32_t>(shape.kv_heads));
  header.key("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  header.key("llama.rope.freq_base", 500000.0f);
  uint64_t offset = 0;
  for (const TensorLine& t : tensors) {
    header.text(t.name);
    header.number<uint32_t>(t.rows == 1 ? 1 : 2);
    header.number<uint64_t>(static_cast<uint64_t>(t.cols));
    if (t.rows > 1) header.number<uint64_t>(static_cast<uint64_t>(t.rows));
    header.number(static_cast<uint32_t>(t.type));
    header.number(offset);
    offset += (static_cast<uint64_t>(t.bytes()) + kAlign - 1) / kAlign * kAlign;
  }
  header.pad();

  std::ofstream out(path, std::ios::binary);
  out.write(header.bytes().data(), static_cast<std::streamsize>(header.bytes().size()));
  Random random(1);
  const int64_t rows = 64, cols = 1 << 14;  // of random blocks, written again and again
  const std::vector<std::byte> of_4 = random_weights(Type::Q4_K, rows, cols, random);
  const std::vector<std::byte> of_6 = random_weights(Type::Q6_K, rows, cols, random);
  const std::vector<float> ones(static_cast<size_t>(shape.dim), 1.0f);
  int64_t read = 0;
  for (const TensorLine& t : tensors) {
    const auto* from = t.type == Type::F32    ? reinterpret_cast<const char*>(ones.data())
                       : t.type == Type::Q4_K ? reinterpret_cast<const char*>(of_4.data())
                                              : reinterpret_cast<const char*>(of_6.data());
    const int64_t most = t.type == Type::F32
                             ? t.bytes()
                             : static_cast<int64_t>(t.type == Type::Q4_K ? of_4.size() : of_6.size());
    for (int64_t left = t.bytes(); left > 0; left -= most) out.write(from, std::min(left, most));
    const char zeros[kAlign] = {};
    out.write(zeros,
              static_cast<std::streamsize>((kAlign - static_cast<uint64_t>(t.bytes()) % kAlign) % kAlign));
    if (t.name != "token_embd.weight") read += t.bytes();
  }
  out.close();
  if (!out) fail(path, ": cannot be written");
  return read;
}

}  // namespace pyllm::compare
