#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/select.h"
#include "core/error.h"
#include "quant/dequantize.h"

namespace pyllm {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

namespace cpu {

namespace {

bool is_float(Type type) { return type == Type::F32 || type == Type::F16 || type == Type::BF16; }

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : kernels_(select_kernels(options.isa)),
      precise_(options.precise),
      kv_type_(options.kv_type),
      pool_(options.threads),
      pack_(options.pack),
      packed_(options.packed ? options.packed : std::make_shared<PackedWeights>()) {}

std::unique_ptr<Weight> CpuBackend::matrix(const WeightSource& source) {
  auto weight = std::make_unique<CpuMatrix>();
  weight->type = source.type;
  weight->rows = source.rows;
  weight->cols = source.cols;
  weight->source = source.data;
  weight->packing = packed_type(source.type);
  if (weight->packing == nullptr && !is_float(source.type))
    fail("weights of type ", type_info(source.type).name, " cannot be multiplied");
  weight->panel_bytes = panel_bytes(source.type, source.cols);
  if (!pack_ || (weight->packing != nullptr && !weight->packing->keep_packed)) {
    expanded_bytes_ += static_cast<int64_t>(source.data.size());
    return weight;
  }
  const PackedWeights::Room room = packed_->take(source.name, weight->panel_count() * weight->panel_bytes);
  weight->panels = room.data;
  if (room.to_fill == nullptr) return weight;
  const auto row_bytes = static_cast<int64_t>(source.data.size()) / source.rows;
  pool_.parallel_for(weight->panel_count(), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p)
      pack_panel(kernels_, source.type, source.data.data(), source.rows, source.cols, p * kPanelRows,
                 room.to_fill + p * weight->panel_bytes);
    packed_->count((std::min(end * kPanelRows, source.rows) - begin * kPanelRows) * row_bytes);
  });
  return weight;
}

std::unique_ptr<Weight> CpuBackend::embedding(const WeightSource& source) {
  auto weight = std::make_unique<CpuEmbedding>();
  weight->type = source.type;
  weight->rows = source.rows;
  weight->cols = source.cols;
  weight->source = source.data;
  const TypeInfo& info = type_info(source.type);
  weight->row_bytes = source.cols / info.block * info.bytes;
  if (!quant::is_weight_type(source.type)) fail("embeddings of type ", info.name, " cannot be read");
  return weight;
}

std::unique_ptr<Vector> CpuBackend::vector(std::span<const float> values) {
  auto vector = std::make_unique<CpuVector>();
  vector->values.assign(values.begin(), values.end());
  vector->data = vector->values.data();
  vector->size = static_cast<int64_t>(values.size());
  return vector;
}

void CpuBackend::begin(const Batch& batch) {
  batch_ = &batch;
  attention_.clear();
  arena_.release(0);
  positions_.clear();
  for (const BatchSequence& s : batch.sequences)
    for (int i = 0; i < s.rows; ++i) positions_.push_back(s.past + i);
}

Tensor CpuBackend::scratch(int64_t rows, int64_t cols) {
  // Rows a large power of two apart would all lie in the same few sets of a cache.
  const int64_t stride = cols % 256 == 0 && rows > 1 ? cols + 16 : cols;
  return {arena_.take<float>(rows * stride), rows, cols, stride};
}

void CpuBackend::embed(const Weight& table, float scale, Tensor out) {
  const auto& t = static_cast<const CpuEmbedding&>(table);
  for_rows(out.rows, out.cols, [&](int64_t r) {
    quant::dequantize_row(t.type, t.source.data() + batch_->tokens[r] * t.row_bytes, t.cols, out.row(r));
    if (scale != 1.0f) kernels_.scale(out.row(r), scale, out.cols);
  });
}

void CpuBackend::rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) {
  auto* buffer = arena_.take<float>(pool_.threads() * group);
  pool_.parallel_for(x.rows, grain_of(x.cols), [&](int64_t begin, int64_t end, int thread) {
    float* normed = buffer + thread * group;
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < x.cols; c += group) {
        float* to = out.row(r) + c;
        kernels_.rms_norm(x.row(r) + c, weight.data, eps, group, add ? normed : to);
        if (add) kernels_.add(to, normed, group);
      }
  });
}

void CpuBackend::rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) {
  const int64_t n = frequency.size;
  for_rows(out.rows, 32 * n, [&](int64_t r) {
    float* row = out.row(r);
    for (int64_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(static_cast<float>(positions_[r]) * frequency.data[i]);
      const float cosine = static_cast<float>(std::cos(angle)) * magnitude;
      const float sine = static_cast<float>(std::sin(angle)) * magnitude;
      if (pairs == RopePairs::Halves) {
        row[i] = cosine;
        row[n + i] = sine;
      } else {
        row[2 * i] = row[2 * i + 1] = cosine;
        row[2 * (n + i)] = -sine;
        row[2 * (n + i) + 1] = sine;
      }
    }
  });
}

void CpuBackend::rope(Tensor q, Tensor k, int head_dim, RopePairs pairs, Tensor table) {
  const bool halves = pairs == RopePairs::Halves;
  for_rows(q.rows, 2 * (q.cols + k.cols), [&](int64_t r) {
    for (const Tensor& x : {q, k})
      for (int64_t c = 0; c < x.cols; c += head_dim)
        if (halves)
          kernels_.rope_halves(x.row(r) + c, table.row(r), table.cols / 2);
        else
          kernels_.rope_adjacent(x.row(r) + c, table.row(r), table.cols / 2);
  });
}

void CpuBackend::gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out.row(static_cast<int64_t>(i)), x.row(rows[i]), static_cast<size_t>(x.cols) * sizeof(float));
}

void CpuBackend::upload(Tensor host, Tensor out) {
  for (int64_t r = 0; r < out.rows; ++r)
    std::memcpy(out.row(r), host.row(r), static_cast<size_t>(out.cols) * sizeof(float));
}

}  // namespace cpu
}  // namespace pyllm
