// Runs the same operation on the CPU backend's scalar twin and on the CUDA backend, and compares.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/entry.h"
#include "core/error.h"

namespace pyllm::compare {

struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  float* row(int64_t r) { return values.data() + r * cols; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
  Tensor tensor() const { return {const_cast<float*>(values.data()), rows, cols, cols}; }
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint32_t>(n)); }
  float normal() { return normal_(engine_); }
  uint32_t bits() { return static_cast<uint32_t>(engine_()); }
  Matrix matrix(int64_t rows, int64_t cols, float scale = 1.0f) {
    Matrix m(rows, cols);
    for (float& x : m.values) x = scale * normal();
    return m;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Blocks of random bytes whose scales are ordinary numbers.
std::vector<std::byte> random_weights(Type type, int64_t rows, int64_t cols, Random& random);

// x in the backend's memory, its rows `gap` elements apart, which hold NaNs.
inline Tensor put(Backend& backend, const Matrix& x, int64_t gap = 0) {
  Matrix wide(x.rows, x.cols + gap);
  std::fill(wide.values.begin(), wide.values.end(), std::numeric_limits<float>::quiet_NaN());
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, wide.row(r));
  const Tensor all = backend.scratch(wide.rows, wide.cols);
  backend.upload(wide.tensor(), all);
  return all.columns(0, x.cols);
}

// A poisoned output, rows further apart than they are long.
inline Tensor poisoned(Backend& backend, int64_t rows, int64_t cols) {
  Matrix m(rows, cols);
  std::fill(m.values.begin(), m.values.end(), std::numeric_limits<float>::quiet_NaN());
  return put(backend, m, 4);
}

inline Matrix get(Backend& backend, Tensor x) {
  const Tensor host = backend.download(x);
  Matrix m(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(host.row(r), x.cols, m.row(r));
  return m;
}

// ||a - b|| / ||b||, infinite with a NaN in it.
inline double difference(const Matrix& a, const Matrix& b) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < b.values.size(); ++i) {
    error += std::pow(static_cast<double>(a.values[i]) - b.values[i], 2);
    size += std::pow(static_cast<double>(b.values[i]), 2);
  }
  const double ratio = std::sqrt(error) / std::max(std::sqrt(size), 1e-30);
  return std::isfinite(ratio) && a.values.size() == b.values.size() ? ratio
                                                                    : std::numeric_limits<double>::infinity();
}
inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

// Backends to compare, and what has been found so far.
class Report {
 public:
  bool quick = false;  // a selection that takes seconds in the emulator
  bool smoke = false;  // of that a selection, for tools that slow a GPU down a hundredfold

  std::unique_ptr<Backend> cpu(const BackendOptions& options = {}) const {
    BackendOptions scalar = options;
    scalar.threads = 1;
    scalar.isa = "scalar";
    return make_cpu_backend(scalar);
  }
  std::unique_ptr<Backend> cuda(const BackendOptions& options = {}) const {
    char error[1024] = "";
    std::unique_ptr<Backend> backend(pyllm_cuda_backend(device, &options, error, sizeof error));
    if (!backend) fail(error);
    return backend;
  }
  int device = 0;

  void expect(bool good, const std::string& what) {
    ++checks;
    if (good) return;
    ++failures;
    std::printf("FAILED %s\n", what.c_str());
    std::fflush(stdout);
  }
  void expect_close(const Matrix& got, const Matrix& wanted, double most, const std::string& what) {
    const double d = difference(got, wanted);
    worst = std::max(worst, d / most);
    expect(d <= most, message(what, ": differs by ", d, ", expected at most ", most));
  }
  int checks = 0, failures = 0;
  double worst = 0.0;  // of the differences, as a part of what was allowed
};

void compare_products(Report& report);
void compare_rows(Report& report);
void compare_attention(Report& report);
void compare_choices(Report& report);
void compare_steps(Report& report);
// Tiny models, token by token: those in `folder`, or the one file.
void compare_models(Report& report, const std::string& path);

}  // namespace pyllm::compare
