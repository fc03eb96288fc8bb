// For tests: devices that are the CPU in disguise, behind the entry points of a device library. They have
// memory of their own that can run out, and their tensors cannot be read but by their own ops.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <deque>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "python/module.h"
#include "quant/dequantize.h"

namespace pyllm::python {
namespace {

struct FakeDevice {
  std::string name;
  int number = 0;
  int64_t total_bytes = 0;
  std::string unusable;
  bool chooses = false;  // tokens
  std::atomic<int64_t> used_bytes = 0;
  std::atomic<int64_t> moved_rows = 0;   // downloaded and uploaded
  std::atomic<int64_t> chosen_rows = 0;  // of logits

  int64_t free_bytes() const { return total_bytes - used_bytes; }
};

using Shared = std::shared_ptr<FakeDevice>;

class Allocation {
 public:
  Allocation(Shared device, int64_t bytes) : device_(std::move(device)), bytes_(bytes) {
    if (bytes > device_->free_bytes())
      fail("cuda:", device_->number, ": out of memory: ", bytes, " bytes asked for, ", device_->free_bytes(),
           " are free");
    device_->used_bytes += bytes;
  }
  ~Allocation() { device_->used_bytes -= bytes_; }
  Allocation(const Allocation&) = delete;

 private:
  Shared device_;
  int64_t bytes_;
};

// A weight, vector or cache of the CPU backend, in a device's memory.
template <typename Base>
struct Held : Base {
  Held(const Shared& device, int64_t bytes) : allocation(device, bytes) {}
  Allocation allocation;
  std::unique_ptr<Base> inner;
};

template <typename Base>
const Base& inner(const Base& held) {
  return *static_cast<const Held<Base>&>(held).inner;
}
KvCache& inner(KvCache& held) { return *static_cast<Held<KvCache>&>(held).inner; }

// The obvious way: everything sorted, in double precision.
Chosen choose_one(std::span<float> logits, const Choice& choice) {
  const auto size = static_cast<int32_t>(logits.size());
  for (int32_t i = 0; i < size; ++i)
    if (!(logits[i] < INFINITY)) return {i, ChoiceStatus::BadLogit, logits[i], 0.0f};
  const std::vector<float> raw(logits.begin(), logits.end());
  double all = 0.0;
  for (const float x : raw) all += std::exp(static_cast<double>(x));
  for (int32_t i = 0; i < size && !choice.mask.empty(); ++i)
    if (!(choice.mask[static_cast<size_t>(i / 32)] >> i % 32 & 1)) logits[i] = -INFINITY;
  for (const LogitEdit& edit : choice.edits) logits[edit.id] = edit.of(logits[edit.id]);
  std::vector<int32_t> left;
  for (int32_t i = 0; i < size; ++i)
    if (logits[i] > -INFINITY) left.push_back(i);
  if (left.empty()) return {-1, ChoiceStatus::NothingLeft, 0.0f, 0.0f};
  std::stable_sort(left.begin(), left.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double best = logits[left[0]];
  const auto total = [&](double temperature) {
    double sum = 0.0;
    for (const int32_t i : left) sum += std::exp((logits[i] - best) / temperature);
    return sum;
  };
  int32_t token = left[0];
  if (choice.temperature > 0.0f) {
    if (choice.top_k > 0 && left.size() > static_cast<size_t>(choice.top_k))
      left.resize(static_cast<size_t>(choice.top_k));
    if (choice.top_p < 1.0f) {
      const double enough = choice.top_p * total(1.0);
      size_t kept = 0;
      for (double sum = 0.0; kept < left.size() && (kept == 0 || sum < enough); ++kept)
        sum += std::exp(logits[left[kept]] - best);
      left.resize(kept);
    }
    std::erase_if(left, [&](int32_t i) { return logits[i] < best + choice.log_min_p; });
    if (choice.top_k == 0 && choice.top_p >= 1.0f) std::sort(left.begin(), left.end());
    double rest = choice.u * total(choice.temperature);
    for (const int32_t i : left) {
      token = i;
      rest -= std::exp((logits[i] - best) / choice.temperature);
      if (rest < 0.0) break;
    }
  }
  return {token, ChoiceStatus::Chosen, 0.0f, static_cast<float>(raw[token] - std::log(all))};
}

class FakeBackend : public Backend {
 public:
  FakeBackend(Shared device, const BackendOptions& options)
      : device_(std::move(device)), tag_(static_cast<uintptr_t>(device_->number + 1) << 56) {
    BackendOptions own = options;
    own.packed = nullptr;
    cpu_ = make_cpu_backend(own);
  }

  std::unique_ptr<Weight> matrix(const WeightSource& source) override {
    return weight(source, cpu_->matrix(source));
  }
  std::unique_ptr<Weight> embedding(const WeightSource& source) override {
    return weight(source, cpu_->embedding(source));
  }
  std::unique_ptr<Vector> vector(std::span<const float> values) override {
    auto held = std::make_unique<Held<Vector>>(device_, static_cast<int64_t>(values.size_bytes()));
    held->inner = cpu_->vector(values);
    held->size = held->inner->size;
    held->data = disguised(held->inner->data);
    return held;
  }
  int64_t mapped_bytes() const override { return 0; }
  std::optional<int64_t> free_bytes() const override { return device_->free_bytes(); }
  int64_t kv_block_bytes(const KvShape& shape) const override { return cpu_->kv_block_bytes(shape); }
  std::unique_ptr<KvCache> kv_cache(const KvShape& shape, int blocks) override {
    auto held = std::make_unique<Held<KvCache>>(device_, kv_block_bytes(shape) * blocks);
    held->inner = cpu_->kv_cache(shape, blocks);
    return held;
  }
  void read_block(const KvCache& cache, int32_t block, std::byte* out) override {
    cpu_->read_block(inner(cache), block, out);
  }
  void write_block(KvCache& cache, int32_t block, const std::byte* from) override {
    cpu_->write_block(inner(cache), block, from);
  }

  void begin(const Batch& batch) override {
    downloads_.clear();
    cpu_->begin(batch);
  }
  Tensor scratch(int64_t rows, int64_t cols) override {
    Tensor t = cpu_->scratch(rows, cols);
    t.data = disguised(t.data);
    return t;
  }
  int64_t mark() const override { return cpu_->mark(); }
  void release(int64_t mark) override { cpu_->release(mark); }

  void embed(const Weight& table, float scale, Tensor out) override {
    cpu_->embed(inner(table), scale, own(out));
  }
  void rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) override {
    cpu_->rms_norm(own(x), inner(weight), eps, group, own(out), add);
  }
  void matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) override {
    std::vector<Factor> inside;
    for (const Factor& f : factors)
      inside.push_back({&inner(*f.weight), f.bias != nullptr ? &inner(*f.bias) : nullptr});
    Input in = input;
    in.x = own(input.x);
    if (input.weight != nullptr) in.weight = &inner(*input.weight);
    cpu_->matmul(inside, in, own(out), add);
  }
  void rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) override {
    cpu_->rope_table(inner(frequency), magnitude, pairs, own(out));
  }
  void copy_blocks(KvCache& cache) override { cpu_->copy_blocks(inner(cache)); }
  void store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) override {
    Rotation inside = rotation;
    inside.table = own(rotation.table);
    if (rotation.q_norm != nullptr) inside.q_norm = &inner(*rotation.q_norm);
    if (rotation.k_norm != nullptr) inside.k_norm = &inner(*rotation.k_norm);
    cpu_->store_kv(inner(cache), layer, own(q), own(k), own(v), inside);
  }
  void attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) override {
    cpu_->attend(inner(cache), layer, own(q), shape, own(out));
  }
  void gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) override {
    cpu_->gather_rows(own(x), rows, own(out));
  }
  bool chooses() const override { return device_->chooses; }
  std::vector<Chosen> choose(Tensor logits, std::span<const Choice> choices) override {
    std::vector<Chosen> chosen;
    const Tensor all = own(logits);
    for (const Choice& choice : choices) {
      float* row = all.row(static_cast<int64_t>(chosen.size()));
      chosen.push_back(choose_one({row, static_cast<size_t>(all.cols)}, choice));
    }
    device_->chosen_rows += static_cast<int64_t>(chosen.size());
    return chosen;
  }
  Tensor download(Tensor x) override {
    auto& copy = downloads_.emplace_back(static_cast<size_t>(x.rows * x.cols));
    const Tensor host{copy.data(), x.rows, x.cols, x.cols};
    cpu_->upload(own(x), host);
    device_->moved_rows += x.rows;
    return host;
  }
  void upload(Tensor host, Tensor out) override {
    if (tag_of(host.data) != 0) throw std::logic_error("upload of a tensor that is not in host memory");
    cpu_->upload(host, own(out));
    device_->moved_rows += out.rows;
  }

 private:
  static uintptr_t tag_of(const float* p) { return reinterpret_cast<uintptr_t>(p) >> 56 << 56; }
  // An address that no other code can read.
  template <typename T>
  T* disguised(T* p) const {
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) | tag_);
  }
  Tensor own(Tensor t) const {
    if (tag_of(t.data) != tag_) throw std::logic_error("a tensor of another backend");
    t.data = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(t.data) & ~tag_);
    return t;
  }
  std::unique_ptr<Weight> weight(const WeightSource& source, std::unique_ptr<Weight> from_cpu) {
    auto held = std::make_unique<Held<Weight>>(device_, static_cast<int64_t>(source.data.size()));
    held->inner = std::move(from_cpu);
    held->rows = source.rows;
    held->cols = source.cols;
    return held;
  }

  Shared device_;
  uintptr_t tag_;
  std::unique_ptr<Backend> cpu_;
  std::deque<std::vector<float>> downloads_;  // of this step
};

std::vector<Shared>& devices() {
  static std::vector<Shared> devices;
  return devices;
}
std::string& trouble() {
  static std::string trouble;
  return trouble;
}

void copy_text(const std::string& text, char* to, size_t size) { std::snprintf(to, size, "%s", text.c_str()); }

int fake_list(cuda::DeviceInfo* out, int capacity, char* error, size_t error_size) {
  if (!trouble().empty()) {
    copy_text(trouble(), error, error_size);
    return -1;
  }
  const int count = static_cast<int>(devices().size());
  for (int i = 0; i < std::min(count, capacity); ++i) {
    const FakeDevice& device = *devices()[static_cast<size_t>(i)];
    out[i] = {};
    copy_text(device.name, out[i].name, sizeof out[i].name);
    copy_text(device.unusable, out[i].unusable, sizeof out[i].unusable);
    out[i].major = 9;
    out[i].driver = out[i].toolkit = 13000;
    out[i].total_bytes = device.total_bytes;
    out[i].free_bytes = device.free_bytes();
  }
  return count;
}

int64_t fake_matrix_bytes(uint32_t type, int64_t rows, int64_t cols) {
  if (!quant::is_weight_type(static_cast<Type>(type))) return -1;
  const TypeInfo& info = type_info(static_cast<Type>(type));
  return rows * (cols / info.block) * info.bytes;
}

Backend* fake_backend(int device, const BackendOptions* options, char* error, size_t error_size) {
  try {
    return new FakeBackend(devices().at(static_cast<size_t>(device)), *options);
  } catch (const std::exception& thrown) {
    copy_text(thrown.what(), error, error_size);
    return nullptr;
  }
}

constexpr DeviceLibrary kLibrary{&fake_list, &fake_matrix_bytes, &fake_backend};

void fake_devices(const std::optional<std::vector<py::dict>>& list, const std::string& error) {
  devices().clear();
  trouble() = error;
  for (const py::dict& about : list.value_or(std::vector<py::dict>{})) {
    auto device = std::make_shared<FakeDevice>();
    device->number = static_cast<int>(devices().size());
    device->name = about["name"].cast<std::string>();
    device->total_bytes = about["total_bytes"].cast<int64_t>();
    if (about.contains("unusable")) device->unusable = about["unusable"].cast<std::string>();
    if (about.contains("chooses")) device->chooses = about["chooses"].cast<bool>();
    devices().push_back(std::move(device));
  }
  replace_device_library(list || !error.empty() ? &kLibrary : nullptr);
}

}  // namespace

void bind_fake_device(py::module_& m) {
  py::module_ testing = m.attr("testing");
  testing.def("fake_devices", &fake_devices, py::arg("devices"), py::arg("error") = "",
              "From now on there are these devices, {\"name\", \"total_bytes\", \"unusable\", \"chooses\"} "
              "each, or none and why; "
              "None: those of the machine again.");
  testing.def("fake_device", [](size_t number) {
    const FakeDevice& device = *devices().at(number);
    py::dict out;
    out["used_bytes"] = device.used_bytes.load();
    out["moved_rows"] = device.moved_rows.load();
    out["chosen_rows"] = device.chosen_rows.load();
    return out;
  });
}

}  // namespace pyllm::python
