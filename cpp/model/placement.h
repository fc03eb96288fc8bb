// Where the parts of a model live: on which backends, and what on each. Models know layers, not devices.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "model/activations.h"

namespace pyllm {

class Placement {
 public:
  // layers: [layer], the backend of each by its place in `backends`; embedding, head: likewise.
  // activations: hears the hidden states between the layers; may be none.
  Placement(std::vector<std::unique_ptr<Backend>> backends, std::vector<int> layers, int embedding, int head,
            std::shared_ptr<Activations> activations = nullptr)
      : backends_(std::move(backends)),
        embedding_(embedding),
        head_(head),
        activations_(std::move(activations)) {
    for (const int backend : layers) layers_.push_back({backend, layers_on(backend)});
  }

  int backends() const { return static_cast<int>(backends_.size()); }
  int layers() const { return static_cast<int>(layers_.size()); }
  int layers_on(int backend) const {
    return static_cast<int>(std::count_if(layers_.begin(), layers_.end(),
                                          [&](const Place& place) { return place.backend == backend; }));
  }
  // A layer's backend, and how many of the layers before it live there too.
  int backend_of(int layer) const { return layers_[static_cast<size_t>(layer)].backend; }
  int index_of(int layer) const { return layers_[static_cast<size_t>(layer)].index; }

  Backend& backend(int i) const { return *backends_[static_cast<size_t>(i)]; }
  Backend& layer(int layer) const { return backend(backend_of(layer)); }
  Backend& embedding() const { return backend(embedding_); }
  Backend& head() const { return backend(head_); }
  Activations* activations() const { return activations_.get(); }

 private:
  struct Place {
    int backend, index;
  };
  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<Place> layers_;
  int embedding_, head_;
  std::shared_ptr<Activations> activations_;
};

}  // namespace pyllm
