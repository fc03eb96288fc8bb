#include "model/activations.h"

#include <algorithm>
#include <cmath>

namespace pyllm {

namespace {

float gelu(float x) {  // the tanh form
  return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}
float silu(float x) { return x / (1.0f + std::exp(-x)); }

// Adds the squares of what a product computes from one row to `sum` [cols].
void add_squares(const Input& input, std::span<const float> norm, int64_t r, std::span<double> sum) {
  const float* x = input.x.row(r);
  const size_t n = sum.size();
  const auto add = [](double& to, float value) { to += static_cast<double>(value) * value; };
  switch (input.op) {
    case Input::Op::None:
      for (size_t i = 0; i < n; ++i) add(sum[i], x[i]);
      break;
    case Input::Op::RmsNorm: {
      double mean = 0.0;
      for (size_t i = 0; i < n; ++i) add(mean, x[i]);
      const auto scale = static_cast<float>(1.0 / std::sqrt(mean / static_cast<double>(n) + input.eps));
      for (size_t i = 0; i < n; ++i) add(sum[i], x[i] * scale * norm[i]);
      break;
    }
    case Input::Op::SiluGate:
      for (size_t i = 0; i < n; ++i) add(sum[i], silu(x[i]) * x[n + i]);
      break;
    case Input::Op::GeluGate:
      for (size_t i = 0; i < n; ++i) add(sum[i], gelu(x[i]) * x[n + i]);
      break;
  }
}

double cosine(const float* a, const float* b, int64_t n) {
  double ab = 0.0, aa = 0.0, bb = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[i], y = b[i];
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return aa > 0.0 && bb > 0.0 ? ab / std::sqrt(aa * bb) : 0.0;
}

}  // namespace

void Activations::product(std::span<const std::string_view> names, const Input& input,
                          std::span<const float> norm) {
  std::vector<double> sum(static_cast<size_t>(input.cols()));
  for (int64_t r = 0; r < input.x.rows; ++r) add_squares(input, norm, r, sum);
  const std::lock_guard lock(mutex_);
  for (const std::string_view name : names) {
    Inputs& all = inputs_[std::string(name)];
    all.squares.resize(sum.size());
    std::transform(sum.begin(), sum.end(), all.squares.begin(), all.squares.begin(), std::plus<>());
    all.rows += input.x.rows;
  }
}

void Activations::boundary(int index, Tensor x) {
  const std::lock_guard lock(mutex_);
  if (index > 0) {
    layers_.resize(std::max(layers_.size(), static_cast<size_t>(index)));
    Layer& layer = layers_[static_cast<size_t>(index) - 1];
    for (int64_t r = 0; r < x.rows; ++r) layer.cosine += cosine(before_.data() + r * x.cols, x.row(r), x.cols);
    layer.rows += x.rows;
  }
  before_.resize(static_cast<size_t>(x.rows * x.cols));
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r), x.cols, before_.data() + r * x.cols);
}

std::map<std::string, Activations::Inputs, std::less<>> Activations::inputs() const {
  const std::lock_guard lock(mutex_);
  return inputs_;
}

std::vector<Activations::Layer> Activations::layers() const {
  const std::lock_guard lock(mutex_);
  return layers_;
}

}  // namespace pyllm
