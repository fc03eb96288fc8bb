// What flows through a model, summed over the tokens of all its forwards: for importance matrices (as
// llama.cpp's imatrix has them), pruning by weights and activations (Sun et al., 2023) and by block influence
// (Men et al., 2024).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace pyllm {

// Written by the thread that computes, read by any.
class Activations {
 public:
  struct Inputs {
    std::vector<double> squares;  // [column], summed over rows
    int64_t rows = 0;
  };
  struct Layer {
    double cosine = 0.0;  // of the hidden state before the layer and after it, summed over rows
    int64_t rows = 0;
  };

  // Matrices of these names read `input`; its tensors are in host memory, `norm` [cols] where there is one.
  void product(std::span<const std::string_view> names, const Input& input, std::span<const float> norm);
  // The hidden state x between the layers, in host memory, before layer `index`; in the end after the last one.
  void boundary(int index, Tensor x);

  std::map<std::string, Inputs, std::less<>> inputs() const;  // by the matrix's name
  std::vector<Layer> layers() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Inputs, std::less<>> inputs_;
  std::vector<Layer> layers_;
  std::vector<float> before_;  // [row, feature], at the last boundary
};

}  // namespace pyllm
