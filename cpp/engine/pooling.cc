#include "engine/pooling.h"

#include <cmath>

#include "core/error.h"

namespace pyllm {

Pooling pooling_named(std::string_view name) {
  if (name == "last") return Pooling::Last;
  if (name == "mean") return Pooling::Mean;
  fail("pooling: expected last or mean, got '", name, "'");
}

void Pool::add(std::span<const float> state) {
  for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += state[i];
}

std::vector<float> Pool::direction() const {
  double square = 0.0;
  for (const double value : sum_) square += value * value;
  const double length = std::sqrt(square);
  if (!std::isfinite(length) || length == 0.0)
    fail("the text's hidden states add up to a vector of length ", length,
         ", expected a finite one above 0; the model file may be damaged, or its values overflow");
  std::vector<float> out(sum_.size());
  for (size_t i = 0; i < sum_.size(); ++i) out[i] = static_cast<float>(sum_[i] / length);
  return out;
}

}  // namespace pyllm
