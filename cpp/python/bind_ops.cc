// Instruction sets and ceilings, and the CPU backend's ops one by one so that tests can hold them against their
// twins.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/ceilings.h"
#include "backend/cpu/select.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "python/module.h"
#include "quant/types.h"

namespace pyllm::python {

namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

Type type_named(const std::string& name) {
  for (const TypeInfo& info : kTypes)
    if (name == info.name) return info.type;
  fail("unknown tensor type ", name);
}

Tensor view(FloatArray& a) {
  if (a.ndim() != 2) fail("expected 2 dimensions, found ", a.ndim());
  return {a.mutable_data(), a.shape(0), a.shape(1), a.shape(1)};
}

WeightSource source(const std::string& type_name, const ByteArray& data, int64_t rows, int64_t cols) {
  const Type type = type_named(type_name);
  const TypeInfo& info = type_info(type);
  if (cols % info.block != 0 || data.size() != rows * (cols / info.block) * info.bytes)
    fail(type_name, " [", rows, ", ", cols, "]: ", data.size(), " bytes do not fit");
  return {
      type, rows, cols, {reinterpret_cast<const std::byte*>(data.data()), static_cast<size_t>(data.size())}};
}

Batch plain_batch(int64_t rows) {
  Batch batch;
  batch.tokens.assign(static_cast<size_t>(rows), 0);
  return batch;
}

FloatArray matmul(const std::string& type, const ByteArray& data, int64_t rows, FloatArray x,
                  const std::string& isa, int threads, bool precise) {
  auto backend = make_cpu_backend({threads, isa.c_str(), precise});
  const auto weight = backend->matrix(source(type, data, rows, x.shape(1)));
  const Batch batch = plain_batch(x.shape(0));
  backend->begin(batch);
  FloatArray out({x.shape(0), static_cast<py::ssize_t>(rows)});
  const Factor factor{weight.get()};
  backend->matmul({&factor, 1}, {view(x)}, view(out), false);
  return out;
}

// The obvious twin of a quantized matmul: straight from the file's blocks, one output at a time.
template <typename Q>
void matmul_twin(const WeightSource& w, const Tensor& x, const Tensor& out) {
  const auto* blocks = reinterpret_cast<const typename Q::Block*>(w.data.data());
  std::vector<int> q(static_cast<size_t>(x.cols));
  std::vector<float> scale(static_cast<size_t>(x.cols / 32));
  for (int64_t c = 0; c < x.rows; ++c) {
    for (int64_t s = 0; s < x.cols / 32; ++s) {
      float largest = 0.0f;
      for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x.row(c)[32 * s + i]));
      scale[static_cast<size_t>(s)] = largest / 127.0f;
      const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
      for (int i = 0; i < 32; ++i)
        q[static_cast<size_t>(32 * s + i)] = static_cast<int>(std::nearbyintf(x.row(c)[32 * s + i] * inverse));
    }
    for (int64_t r = 0; r < w.rows; ++r) {
      float acc = 0.0f, total = 0.0f;
      for (int64_t k = 0; k < x.cols; k += Q::group) {
        const typename Q::Block& block = blocks[(r * x.cols + k) / Q::block];
        const int group = static_cast<int>(k % Q::block / Q::group);
        const quant::ScaleMin s = quant::scale_min<Q>(block, group);
        uint8_t code[Q::group];
        quant::values<Q>(block, group, code);
        int dot = 0, sum = 0;
        for (int i = 0; i < Q::group; ++i) {
          dot += (static_cast<int>(code[i]) - Q::zero) * q[static_cast<size_t>(k + i)];
          sum += q[static_cast<size_t>(k + i)];
        }
        const float product = static_cast<float>(dot);
        total = k % 32 == 0 ? product * s.scale : std::fma(product, s.scale, total);
        if (Q::has_min) total = std::fma(-s.min, static_cast<float>(sum), total);
        if (k % 32 + Q::group == 32) acc = std::fma(total, scale[static_cast<size_t>(k / 32)], acc);
      }
      out.row(c)[r] = acc;
    }
  }
}

FloatArray matmul_reference(const std::string& type, const ByteArray& data, int64_t rows, FloatArray x) {
  const WeightSource w = source(type, data, rows, x.shape(1));
  FloatArray out({x.shape(0), static_cast<py::ssize_t>(rows)});
  const Tensor in = view(x), to = view(out);
  if (!quant::visit(w.type, [&]<typename Q>() { matmul_twin<Q>(w, in, to); }))
    fail(type, " is not a quantized type");
  return out;
}

// Attention of every token of one sequence over a paged cache whose block table is given; k, v [token, heads x
// dim].
FloatArray attend(FloatArray q, FloatArray k, FloatArray v, int heads, int kv_heads, float scale, int window,
                  float softcap, int chunk, const std::vector<int32_t>& blocks, const std::string& isa,
                  int threads, const std::string& kv_type) {
  auto backend = make_cpu_backend({.threads = threads, .isa = isa.c_str(), .kv_type = kv_type_named(kv_type)});
  const Tensor all_q = view(q), all_k = view(k), all_v = view(v);
  const int head_dim = static_cast<int>(all_q.cols) / heads;
  const auto cache =
      backend->kv_cache({2, kv_heads, head_dim}, *std::max_element(blocks.begin(), blocks.end()) + 1);
  FloatArray out({q.shape(0), q.shape(1)});
  const Tensor all_out = view(out);
  for (int64_t past = 0; past < all_q.rows; past += chunk) {
    const int64_t rows = std::min<int64_t>(chunk, all_q.rows - past);
    Batch batch = plain_batch(rows);
    batch.sequences.push_back({0, static_cast<int>(rows), static_cast<int>(past), blocks});
    backend->begin(batch);
    const auto part = [&](const Tensor& t) { return Tensor{t.row(past), rows, t.cols, t.stride}; };
    backend->store_kv(*cache, 1, {}, part(all_k), part(all_v), {});
    backend->attend(*cache, 1, part(all_q), {heads, kv_heads, head_dim, scale, window, softcap}, part(all_out));
  }
  return out;
}

// A kernel that computes row by row: `name` of x and y, or of x and the one row of y.
FloatArray row_op(const std::string& name, FloatArray x, FloatArray y, float eps, const std::string& isa) {
  const cpu::Kernels& kernels = cpu::select_kernels(isa.c_str());
  const Tensor in = view(x), other = view(y);
  FloatArray result({x.shape(0), x.shape(1)});
  const Tensor out = view(result);
  for (int64_t r = 0; r < in.rows; ++r) {
    std::memcpy(out.row(r), in.row(r), static_cast<size_t>(in.cols) * sizeof(float));
    if (name == "silu_gate")
      kernels.silu_gate(in.row(r), other.row(r), in.cols, out.row(r));
    else if (name == "gelu_gate")
      kernels.gelu_gate(in.row(r), other.row(r), in.cols, out.row(r));
    else if (name == "rms_norm")
      kernels.rms_norm(in.row(r), other.data, eps, in.cols, out.row(r));
    else if (name == "rope_halves")
      kernels.rope_halves(out.row(r), other.row(r), in.cols / 2);
    else if (name == "rope_adjacent")
      kernels.rope_adjacent(out.row(r), other.row(r), in.cols);
    else
      fail("unknown op ", name);
  }
  return result;
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def(
      "isas",
      [](bool built) {
        std::vector<std::string> names;
        for (const cpu::IsaInfo& info : cpu::instruction_sets())
          if (built || info.supported) names.emplace_back(info.kernels->name);
        return names;
      },
      py::arg("built") = false);
  m.def(
      "active_isa", [](const std::string& isa) { return std::string(cpu::select_kernels(isa.c_str()).name); },
      py::arg("isa") = "");
  m.def("cpu_threads", &available_cpus);
  m.def(
      "kv_block_bytes",
      [](const std::string& kv_type, int kv_heads, int head_dim) {
        if (kv_heads < 1 || head_dim < 1 || kv_heads > 1 << 16 || head_dim > 1 << 16)
          fail("kv_block_bytes: no such heads");
        return make_cpu_backend({.threads = 1, .kv_type = kv_type_named(kv_type)})
            ->kv_block_bytes({1, kv_heads, head_dim});
      },
      py::arg("kv_type"), py::arg("kv_heads"), py::arg("head_dim"));
  m.def(
      "measure_ceilings",
      [](int threads, const std::string& isa) {
        cpu::Ceilings c{};
        {
          py::gil_scoped_release release;
          c = cpu::measure_ceilings(threads, isa.c_str());
        }
        py::dict result;
        result["read_gbps"] = c.read_gbps;
        result["int8_tops"] = c.int8_tops;
        return result;
      },
      py::arg("threads") = 0, py::arg("isa") = "");

  py::module_ ops = m.def_submodule("ops", "Single operations of the CPU backend, for tests.");
  ops.def("matmul", &matmul, py::arg("type"), py::arg("data"), py::arg("rows"), py::arg("x"),
          py::arg("isa") = "", py::arg("threads") = 1, py::arg("precise") = false);
  ops.def("matmul_reference", &matmul_reference);
  ops.def("attend", &attend, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("heads"), py::arg("kv_heads"),
          py::arg("scale"), py::arg("window") = 0, py::arg("softcap") = 0.0f, py::arg("chunk") = 1 << 30,
          py::arg("blocks"), py::arg("isa") = "", py::arg("threads") = 1, py::arg("kv_type") = "f16");
  ops.def("row_op", &row_op, py::arg("name"), py::arg("x"), py::arg("y"), py::arg("eps") = 1e-6f,
          py::arg("isa") = "");
}

}  // namespace pyllm::python
