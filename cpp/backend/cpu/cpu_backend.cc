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
      pack_panel(source.type, source.data.data(), source.rows, source.cols, p * kPanelRows,
                 room.to_fill + p * weight->panel_bytes);
    packed_->count((std::min(end * kPanelRows, source.rows) - begin * kPanelRows) * row_bytes);
  });
  return weight;
}

const std::byte* CpuBackend::panel(const CpuMatrix& w, int64_t p, std::byte* room) {
  if (w.panels != nullptr) return w.panels + p * w.panel_bytes;
  pack_panel(w.type, w.source.data(), w.rows, w.cols, p * kPanelRows, room);
  return room;
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
  arena_.release(0);
  positions_.clear();
  for (const BatchSequence& s : batch.sequences)
    for (int i = 0; i < s.rows; ++i) positions_.push_back(s.past + i);
}

Tensor CpuBackend::scratch(int64_t rows, int64_t cols) {
  return {arena_.take<float>(rows * cols), rows, cols, cols};
}

void CpuBackend::embed(const Weight& table, float scale, Tensor out) {
  const auto& t = static_cast<const CpuEmbedding&>(table);
  for_rows(out.rows, out.cols, [&](int64_t r) {
    quant::dequantize_row(t.type, t.source.data() + batch_->tokens[r] * t.row_bytes, t.cols, out.row(r));
    if (scale != 1.0f) kernels_.scale(out.row(r), scale, out.cols);
  });
}

void CpuBackend::rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out) {
  for_rows(x.rows, x.cols, [&](int64_t r) {
    for (int64_t c = 0; c < x.cols; c += group)
      kernels_.rms_norm(x.row(r) + c, weight.data, eps, group, out.row(r) + c);
  });
}

void CpuBackend::add(Tensor x, Tensor y) {
  for_rows(x.rows, x.cols, [&](int64_t r) { kernels_.add(x.row(r), y.row(r), x.cols); });
}

void CpuBackend::silu_gate(Tensor gate, Tensor up, Tensor out) {
  for_rows(out.rows, 4 * out.cols,
           [&](int64_t r) { kernels_.silu_gate(gate.row(r), up.row(r), out.cols, out.row(r)); });
}

void CpuBackend::gelu_gate(Tensor gate, Tensor up, Tensor out) {
  for_rows(out.rows, 4 * out.cols,
           [&](int64_t r) { kernels_.gelu_gate(gate.row(r), up.row(r), out.cols, out.row(r)); });
}

void CpuBackend::rope_table(const Vector& frequency, float magnitude, Tensor out) {
  const int64_t n = frequency.size;
  for_rows(out.rows, 32 * n, [&](int64_t r) {
    for (int64_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(static_cast<float>(positions_[r]) * frequency.data[i]);
      out.row(r)[i] = static_cast<float>(std::cos(angle)) * magnitude;
      out.row(r)[n + i] = static_cast<float>(std::sin(angle)) * magnitude;
    }
  });
}

void CpuBackend::rope(Tensor x, int head_dim, RopePairs pairs, Tensor table) {
  const int64_t n = table.cols / 2;
  for_rows(x.rows, 4 * x.cols, [&](int64_t r) {
    const float *cosine = table.row(r), *sine = cosine + n;
    for (float* head = x.row(r); head < x.row(r) + x.cols; head += head_dim) {
      for (int64_t i = 0; i < n; ++i) {
        float& a = pairs == RopePairs::Adjacent ? head[2 * i] : head[i];
        float& b = pairs == RopePairs::Adjacent ? head[2 * i + 1] : head[i + n];
        const float rotated = a * cosine[i] - b * sine[i];
        b = a * sine[i] + b * cosine[i];
        a = rotated;
      }
    }
  });
}

void CpuBackend::gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out.row(static_cast<int64_t>(i)), x.row(rows[i]), static_cast<size_t>(x.cols) * sizeof(float));
}

}  // namespace cpu
}  // namespace pyllm
