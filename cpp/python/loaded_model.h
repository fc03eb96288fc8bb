#pragma once

#include <memory>
#include <utility>

#include "gguf/reader.h"
#include "model/model.h"

namespace pyllm::python {

// `_core.Model`: a model on its way to the engine that takes it over.
struct LoadedModel {
  LoadedModel(std::shared_ptr<gguf::File> from, std::unique_ptr<Model> loaded)
      : file(std::move(from)),
        model(std::move(loaded)),
        config(model->config()),
        kv_block_bytes(model->kv_block_bytes()) {}

  std::shared_ptr<gguf::File> file;  // the model reads from its mapping
  std::unique_ptr<Model> model;      // null once an engine has it
  ModelConfig config;
  int64_t kv_block_bytes;
};

}  // namespace pyllm::python
