// Mutation fuzzer for the GGUF reader: small valid models, damaged in ways that parsers fall for. Built with
// AddressSanitizer and UBSan (tests/fuzz/CMakeLists.txt); every buffer has its exact size, so that reading one
// byte too far is caught.
//
//   fuzz_gguf [--seed N] [--seconds N] [--only INPUT]      INPUT: the number printed when one failed
//
// Every input depends on the seed and its number alone.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"
#include "gguf/reader.h"

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using pyllm::gguf::File;
using pyllm::gguf::Value;
using pyllm::gguf::ValueType;
using Random = std::mt19937_64;

struct Field {
  size_t offset;
  size_t width;
};
struct Part {
  std::string bytes;
  std::vector<Field> fields;  // where the numbers are, as long as nothing was inserted before them
};
using Model = std::vector<Part>;

uint64_t below(Random& random, uint64_t limit) { return limit == 0 ? 0 : random() % limit; }

// -- Valid models
// ---------------------------------------------------------------------------------------------------

class Builder {
 public:
  Builder(uint32_t version, uint64_t tensors, uint64_t keys) {
    part_.bytes = "GGUF";
    number(version);
    number(tensors);
    number(keys);
  }

  template <typename T>
  Builder& number(T value) {
    part_.fields.push_back({part_.bytes.size(), sizeof(T)});
    part_.bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Builder& text(std::string_view value) {
    number<uint64_t>(value.size());
    part_.bytes += value;
    return *this;
  }
  Builder& key(std::string_view name, ValueType type) { return text(name).number(static_cast<uint32_t>(type)); }
  Builder& array(std::string_view name, ValueType element, uint64_t count) {
    return key(name, ValueType::Array).number(static_cast<uint32_t>(element)).number(count);
  }
  // `block` weights in a row, as many rows as asked for.
  Builder& tensor(std::string_view name, const pyllm::TypeInfo& type, uint64_t rows, uint64_t alignment) {
    text(name).number<uint32_t>(2).number<uint64_t>(type.block).number(rows);
    number(static_cast<uint32_t>(type.type)).number(data_);
    data_ = (data_ + rows * type.bytes + alignment - 1) / alignment * alignment;
    return *this;
  }
  Part finish(uint64_t alignment) {
    while (part_.bytes.size() % alignment != 0) part_.bytes += '\0';
    part_.bytes.append(data_, '\x55');
    return std::move(part_);
  }

 private:
  Part part_;
  uint64_t data_ = 0;
};

Part every_value() {
  Builder out(3, 0, 18);
  out.key("general.architecture", ValueType::String).text("llama");
  out.key("u8", ValueType::U8).number<uint8_t>(1).key("i8", ValueType::I8).number<int8_t>(-1);
  out.key("u16", ValueType::U16).number<uint16_t>(1).key("i16", ValueType::I16).number<int16_t>(-1);
  out.key("u32", ValueType::U32).number<uint32_t>(1).key("i32", ValueType::I32).number<int32_t>(-1);
  out.key("u64", ValueType::U64).number<uint64_t>(1).key("i64", ValueType::I64).number<int64_t>(-1);
  out.key("f32", ValueType::F32).number(1.5f).key("f64", ValueType::F64).number(2.5);
  out.key("bool", ValueType::Bool).number<uint8_t>(1);
  out.array("words", ValueType::String, 3).text("a").text("").text("\xf0\x9f\x98\x80");
  out.array("numbers", ValueType::F32, 2).number(1.0f).number(2.0f);
  out.array("flags", ValueType::Bool, 3).number<uint8_t>(0).number<uint8_t>(1).number<uint8_t>(1);
  out.array("none", ValueType::I64, 0);
  out.array("nested", ValueType::Array, 2);
  out.number(static_cast<uint32_t>(ValueType::U8)).number<uint64_t>(1).number<uint8_t>(7);
  out.number(static_cast<uint32_t>(ValueType::Array)).number<uint64_t>(1);
  out.number(static_cast<uint32_t>(ValueType::String)).number<uint64_t>(1).text("deep");
  out.key("general.alignment", ValueType::U32).number<uint32_t>(32);
  return out.finish(32);
}

Part every_tensor_type() {
  Builder out(2, std::size(pyllm::kTypes), 1);
  out.key("general.alignment", ValueType::U32).number<uint32_t>(8);
  for (const pyllm::TypeInfo& type : pyllm::kTypes) out.tensor(type.name, type, 1, 8);
  return out.finish(8);
}

Model split_model(int parts) {
  Model model;
  for (int i = 0; i < parts; ++i) {
    Builder out(3, 2, i == 0 ? 4 : 3);
    if (i == 0) out.key("general.architecture", ValueType::String).text("qwen3");
    out.key("split.no", ValueType::U16).number(static_cast<uint16_t>(i));
    out.key("split.count", ValueType::U16).number(static_cast<uint16_t>(parts));
    out.key("split.tensors.count", ValueType::I32).number<int32_t>(2 * parts);
    out.tensor("blk." + std::to_string(i) + ".a", pyllm::type_info(pyllm::Type::F32), 3, 32);
    out.tensor("blk." + std::to_string(i) + ".b", pyllm::type_info(pyllm::Type::Q4_K), 2, 32);
    model.push_back(out.finish(32));
  }
  return model;
}

std::vector<Model> valid_models() {
  return {{every_value()}, {every_tensor_type()}, split_model(1), split_model(2), split_model(3)};
}

// -- Damage
// ---------------------------------------------------------------------------------------------------------

std::vector<uint64_t> interesting_values() {
  std::vector<uint64_t> out;
  for (uint64_t i = 0; i < 48; ++i) out.push_back(i);  // type numbers, small counts
  for (int bit = 6; bit < 64; ++bit)
    for (const uint64_t around : {-1, 0, 1}) out.push_back((uint64_t{1} << bit) + around);
  for (const uint64_t size : {4, 18, 32, 144}) {  // products with a block's size that wrap
    out.push_back(UINT64_MAX / size);
    out.push_back(UINT64_MAX / size + 1);
  }
  for (uint64_t i = 0; i < 34; ++i) out.push_back(UINT64_MAX - i);
  return out;
}

void store(Part& part, Field field, uint64_t value) {
  if (field.offset + field.width <= part.bytes.size()) memcpy(&part.bytes[field.offset], &value, field.width);
}

void damage(Random& random, const std::vector<Model>& valid, const std::vector<uint64_t>& interesting,
            Model& model) {
  Part& part = model[below(random, model.size())];
  std::string& bytes = part.bytes;
  const size_t at = below(random, bytes.size());
  const Field field = part.fields[below(random, part.fields.size())];
  switch (below(random, 10)) {
    case 0:
      if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(random, 8));
      break;
    case 1:
      if (!bytes.empty()) bytes[at] = static_cast<char>(random());
      break;
    case 2:
    case 3:
      store(part, field, interesting[below(random, interesting.size())]);
      break;
    case 4:
      store(part, field, below(random, 2 * bytes.size() + 1));
      break;
    case 5: {  // off by a little
      uint64_t value = 0;
      if (field.offset + field.width <= bytes.size()) memcpy(&value, &bytes[field.offset], field.width);
      store(part, field, value + below(random, 9) - 4);
      break;
    }
    case 6:
      bytes.resize(at);
      break;
    case 7: {  // a piece of any model over this one, or in between
      const Model& other = valid[below(random, valid.size())];
      const std::string& from = other[below(random, other.size())].bytes;
      const size_t start = below(random, from.size());
      const std::string piece = from.substr(start, below(random, 64));
      bytes.replace(at, below(random, 2) ? piece.size() : 0, piece);
      break;
    }
    case 8:
      bytes.erase(at, below(random, 16));
      break;
    case 9:
      if (below(random, 2))
        std::swap(model.front(), model.back());
      else if (model.size() > 1)
        model.pop_back();
      break;
  }
}

// -- Trying
// ---------------------------------------------------------------------------------------------------------

uint64_t checksum = 0;  // so that no read is optimised away

void read_all(const Value& value) {
  for (const std::byte b : value.bytes) checksum += static_cast<uint64_t>(b);
  if (value.type == ValueType::String)
    for (const std::string_view text : pyllm::gguf::split_strings(value)) checksum += text.size();
  if (value.type == ValueType::Array)
    for (const Value& inner : pyllm::gguf::split_arrays(value)) read_all(inner);
}

// False when `read` throws an Error, whose message must be fit for a terminal; anything else thrown is a bug.
template <typename Read>
bool accepted(Read read) {
  try {
    read();
    return true;
  } catch (const pyllm::Error& error) {
    if (!pyllm::is_name(error.what())) {
      fprintf(stderr, "unprintable message: %s\n", pyllm::printable(error.what(), 1000).c_str());
      abort();
    }
    return false;
  }
}

void read_all(const File& file) {
  for (const std::string_view key : file.keys()) {
    read_all(*file.find(key));
    accepted([&] { checksum += file.integer(key); });
    accepted([&] { checksum += static_cast<uint64_t>(file.number(key) > 0); });
    accepted([&] { checksum += *file.maybe_boolean(key); });
    accepted([&] { checksum += file.string(key).size(); });
    accepted([&] { checksum += file.strings(key).size(); });
    accepted([&] { checksum += file.numbers(key).size(); });
  }
  for (const auto& tensor : file.tensors()) {
    if (file.find_tensor(tensor.name) != &tensor) abort();
    for (const std::byte b : tensor.data) checksum += static_cast<uint64_t>(b);
  }
}

bool try_memory(const Model& model) {
  std::vector<std::unique_ptr<std::byte[]>> buffers;
  std::vector<std::span<const std::byte>> parts;
  for (const Part& part : model) {
    buffers.push_back(std::make_unique<std::byte[]>(part.bytes.size()));
    memcpy(buffers.back().get(), part.bytes.data(), part.bytes.size());
    parts.emplace_back(buffers.back().get(), part.bytes.size());
  }
  return accepted([&] { read_all(File::from_memory(parts, "fuzz")); });
}

bool try_files(const Model& model, const std::filesystem::path& folder) {
  std::string first;
  for (size_t i = 0; i < model.size(); ++i) {
    char name[64] = "m.gguf";
    if (model.size() > 1) snprintf(name, sizeof(name), "m-%05zu-of-%05zu.gguf", i + 1, model.size());
    const std::string path = folder / name;
    if (i == 0) first = path;
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << model[i].bytes;
  }
  return accepted([&] { read_all(File(first)); });
}

uint64_t seed = 1;
uint64_t input = 0;

void say_which() {
  fprintf(stderr, "fuzz_gguf: to repeat it: --seed %llu --only %llu\n", static_cast<unsigned long long>(seed),
          static_cast<unsigned long long>(input));
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 10;
  int64_t only = -1;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--seed") seed = strtoull(argv[i + 1], nullptr, 10);
    if (option == "--seconds") seconds = strtod(argv[i + 1], nullptr);
    if (option == "--only") only = strtoll(argv[i + 1], nullptr, 10);
  }
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_which);
  std::signal(SIGABRT, [](int) { say_which(); });  // exceptions of other types end here

  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto begin = Clock::now();
  const std::vector<Model> valid = valid_models();
  const std::vector<uint64_t> interesting = interesting_values();
  const auto folder = std::filesystem::temp_directory_path() / ("pyllm-fuzz-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);

  // First the models as they are, then every field with every value, and every length; then at random until
  // time is over.
  struct Change {
    size_t model, part;
    Field field;  // width 0: cut the part at the offset
    uint64_t value;
  };
  std::vector<Change> changes;
  for (size_t m = 0; m < valid.size(); ++m)
    for (size_t p = 0; p < valid[m].size(); ++p) {
      for (const Field field : valid[m][p].fields)
        for (const uint64_t value : interesting) changes.push_back({m, p, field, value});
      for (size_t size = 0; size < valid[m][p].bytes.size(); ++size) changes.push_back({m, p, {size, 0}, 0});
    }
  const auto make = [&](uint64_t number, Random& random) {
    if (number < valid.size()) return valid[number];
    number -= valid.size();
    if (number < changes.size()) {
      const Change& change = changes[number];
      Model model = valid[change.model];
      Part& part = model[change.part];
      if (change.field.width == 0)
        part.bytes.resize(change.field.offset);
      else
        store(part, change.field, change.value);
      return model;
    }
    Model model = valid[below(random, valid.size())];
    for (uint64_t n = 1 + below(random, 4); n > 0; --n) damage(random, valid, interesting, model);
    return model;
  };
  const size_t systematic = valid.size() + changes.size();
  uint64_t accepts = 0;
  double slowest = 0;
  for (input = only < 0 ? 0 : static_cast<uint64_t>(only);; ++input) {
    Random random(seed * 0x9e3779b97f4a7c15u + input);
    const Model model = make(input, random);
    const auto start = Clock::now();
    const bool memory = try_memory(model);
    if (input < valid.size() && !memory) {
      fprintf(stderr, "fuzz_gguf: valid model %llu was refused\n", static_cast<unsigned long long>(input));
      return 1;
    }
    accepts += memory;
    // Files go through mapping and part names, and are slower: one in eight.
    if (input % 8 == 0) try_files(model, folder);
    slowest = std::max(slowest, since(start));
    if (only >= 0 || (input >= systematic && since(begin) > seconds)) break;
  }
  std::filesystem::remove_all(folder);
  printf("fuzz_gguf: seed %llu, %llu inputs (%zu systematic), %llu accepted, slowest %.1f ms, %.1f s\n",
         static_cast<unsigned long long>(seed), static_cast<unsigned long long>(input + 1), systematic,
         static_cast<unsigned long long>(accepts), slowest * 1e3, since(begin));
  if (slowest > 1) fprintf(stderr, "fuzz_gguf: an input took more than a second\n");
  return slowest > 1;
}
