// Model, Engine and Event for Python. A step runs without the GIL from beginning to end.
#include <algorithm>
#include <span>
#include <string_view>

#include "backend/cpu/packed_weights.h"
#include "backend/device.h"
#include "core/error.h"
#include "engine/engine.h"
#include "engine/memory.h"
#include "model/recording_backend.h"
#include "python/loaded_model.h"
#include "python/mask_source.h"
#include "python/module.h"

namespace pyllm::python {
namespace {

struct LoadedEngine {
  std::shared_ptr<gguf::File> file;  // outlives the engine's model
  std::unique_ptr<Engine> engine;
};

// Devices by their number, the CPU as -1. layers: [layer]; none: all on the CPU.
std::shared_ptr<const Placement> place(std::vector<int> layers, int embedding, int head, int layer_count,
                                       const BackendOptions& options,
                                       const std::shared_ptr<Activations>& activations) {
  if (layers.empty()) layers.assign(static_cast<size_t>(layer_count), -1);
  std::vector<int> devices;  // [backend]
  std::vector<std::unique_ptr<Backend>> backends;
  const auto backend_on = [&](int device) {
    const auto found = std::find(devices.begin(), devices.end(), device);
    if (found != devices.end()) return static_cast<int>(found - devices.begin());
    auto backend = device < 0 ? make_cpu_backend(options) : make_device_backend(device, options);
    if (activations) backend = std::make_unique<RecordingBackend>(std::move(backend), activations);
    backends.push_back(std::move(backend));
    devices.push_back(device);
    return static_cast<int>(devices.size()) - 1;
  };
  embedding = backend_on(embedding);
  for (int& layer : layers) layer = backend_on(layer);
  head = backend_on(head);
  return std::make_shared<Placement>(std::move(backends), std::move(layers), embedding, head, activations);
}

LoadedModel load(std::shared_ptr<gguf::File> file, int threads, const std::string& isa, bool precise, bool pack,
                 std::shared_ptr<cpu::PackedWeights> packed, const std::string& kv_type,
                 std::vector<int> layer_devices, int embedding_device, int head_device,
                 const std::shared_ptr<Activations>& activations) {
  const BackendOptions options{threads, isa.c_str(), precise, pack, std::move(packed), kv_type_named(kv_type)};
  const auto placement =
      place(std::move(layer_devices), embedding_device, head_device, layer_count(*file), options, activations);
  std::unique_ptr<Model> model = load_model(*file, placement);
  return LoadedModel(std::move(file), std::move(model));
}

// The ids that the file itself names as ends of a text.
std::vector<int32_t> end_tokens(const gguf::File& file, int64_t vocab) {
  std::vector<int32_t> ids;
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto id = file.maybe_integer(key); id && *id >= 0 && *id < vocab)
      ids.push_back(static_cast<int32_t>(*id));
  return ids;
}

int32_t token_id(int64_t id, size_t position) {
  if (id < 0 || id > std::numeric_limits<int32_t>::max())
    fail("prompt: expected token ids from 0 up, got ", id, " at position ", position);
  return static_cast<int32_t>(id);
}

[[noreturn]] void not_token_ids(const py::handle& found, const char* of) {
  PyErr_Clear();
  fail("prompt: expected a list or a one-dimensional array of token ids, got ",
       py::repr(py::type::of(found)).cast<std::string>(), of);
}

// A list of integers, without numpy (which takes longer to import than a short prompt takes), or any array of
// them.
std::vector<int32_t> token_ids(const py::object& tokens) {
  std::vector<int32_t> ids;
  if (py::isinstance<py::list>(tokens) || py::isinstance<py::tuple>(tokens)) {
    for (const py::handle item : tokens) {
      int overflow = 0;
      if (!PyIndex_Check(item.ptr()) || PyBool_Check(item.ptr())) not_token_ids(tokens, " of other things");
      const long long id = PyLong_AsLongLongAndOverflow(item.ptr(), &overflow);
      if (overflow != 0) not_token_ids(tokens, " of numbers too large");
      if (id == -1 && PyErr_Occurred() != nullptr) not_token_ids(tokens, " of other things");
      ids.push_back(token_id(id, ids.size()));
    }
    return ids;
  }
  const auto array = py::array::ensure(tokens);
  if (array && array.ndim() == 1 && array.size() == 0) return {};
  if (!array || array.ndim() != 1 || (array.dtype().kind() != 'i' && array.dtype().kind() != 'u'))
    not_token_ids(tokens, array ? " of other things" : "");
  const auto wide = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
  for (py::ssize_t i = 0; i < wide.size(); ++i) ids.push_back(token_id(wide.data()[i], ids.size()));
  return ids;
}

void submit(LoadedEngine& self, uint64_t id, const py::object& tokens, const SamplingParams& params,
            int priority, const std::string& cache_salt, bool want_logits,
            const std::optional<std::string>& pooling, std::optional<int64_t> score_from,
            const py::list& constraint) {
  Request request{id, token_ids(tokens), params, priority, cache_salt, want_logits, score_from, {}, {}};
  if (pooling) request.pooling = pooling_named(*pooling);
  for (const py::handle state : constraint)
    request.constraint.push_back(std::make_unique<PythonStream>(py::reinterpret_borrow<py::object>(state)));
  py::gil_scoped_release release;
  self.engine->submit(std::move(request));
}

py::bytes read_kv(LoadedEngine& self, const py::object& tokens, int64_t first, int64_t count,
                  const std::string& cache_salt) {
  const std::vector<int32_t> ids = token_ids(tokens);
  std::vector<std::byte> bytes;
  {
    py::gil_scoped_release release;
    bytes = self.engine->read_kv(ids, cache_salt, first, count);
  }
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

int64_t write_kv(LoadedEngine& self, const py::object& tokens, int64_t first, const py::bytes& data,
                 const std::string& cache_salt) {
  const std::vector<int32_t> ids = token_ids(tokens);
  const std::string_view view = data;
  py::gil_scoped_release release;
  return self.engine->write_kv(ids, cache_salt, first, std::as_bytes(std::span(view)));
}

py::dict stats(const LoadedEngine& self) {
  const EngineStats s = self.engine->stats();
  py::dict out;
  out["running"] = s.running;
  out["waiting"] = s.waiting;
  out["blocks_total"] = s.blocks_total;
  out["blocks_free"] = s.blocks_free;
  out["blocks_cached"] = s.blocks_cached;
  out["prefix_hit_tokens"] = s.prefix_hit_tokens;
  out["preemptions"] = s.preemptions;
  out["steps"] = s.steps;
  out["tokens_computed"] = s.tokens_computed;
  return out;
}

py::object finish_reason(const Event& e) {
  switch (e.finish) {
    case Finish::None:
      break;
    case Finish::Stop:
      return py::str("stop");
    case Finish::Length:
      return py::str("length");
    case Finish::Cancelled:
      return py::str("cancelled");
    case Finish::Error:
      return py::str("error");
  }
  return py::none();
}

// The event is the array's base: no copy.
py::object logits(const py::object& self) {
  const Event& e = self.cast<const Event&>();
  if (e.logits_rows == 0) return py::none();
  const auto rows = static_cast<py::ssize_t>(e.logits_rows);
  const auto vocab = static_cast<py::ssize_t>(e.logits.size()) / rows;
  return py::array_t<float>({rows, vocab}, e.logits.data(), self);
}

py::object embedding(const py::object& self) {
  const Event& e = self.cast<const Event&>();
  if (e.embedding.empty()) return py::none();
  return py::array_t<float>({static_cast<py::ssize_t>(e.embedding.size())}, e.embedding.data(), self);
}

py::object scores(const py::object& self) {
  const Event& e = self.cast<const Event&>();
  if (e.scores.empty()) return py::none();
  return py::array_t<float>({static_cast<py::ssize_t>(e.scores.size())}, e.scores.data(), self);
}

py::list top_logprobs(const Event& e) {
  py::list out(e.top_logprobs.size());
  for (size_t i = 0; i < e.top_logprobs.size(); ++i)
    out[i] = py::make_tuple(e.top_logprobs[i].id, e.top_logprobs[i].logprob);
  return out;
}

py::dict inputs(const Activations& self) {
  py::dict out;
  for (const auto& [name, all] : self.inputs())
    out[py::str(name)] = py::make_tuple(
        py::array_t<double>(static_cast<py::ssize_t>(all.squares.size()), all.squares.data()), all.rows);
  return out;
}

py::list layers(const Activations& self) {
  py::list out;
  for (const Activations::Layer& layer : self.layers()) out.append(py::make_tuple(layer.cosine, layer.rows));
  return out;
}

void bind_model(py::module_& m) {
  py::class_<Activations, std::shared_ptr<Activations>>(m, "Activations",
                                                        "What flows through a model, summed over tokens.")
      .def(py::init<>())
      .def("inputs", &inputs,
           "{matrix: (float64 [columns], rows)}: squared inputs, summed over so many rows. The head reads only "
           "rows whose logits were wanted.")
      .def("layers", &layers,
           "[(cosine, rows)] of every layer: of the hidden states before and after it, summed over rows.");
  py::class_<LoadedModel>(m, "Model", "A model's weights, ready to compute. One engine can take it over.")
      .def(
          py::init(&load), py::arg("file"), py::arg("threads") = 0, py::arg("isa") = "",
          py::arg("precise") = false, py::arg("pack") = true, py::arg("packed") = py::none(),
          py::arg("kv_type") = "f16", py::arg("layer_devices") = std::vector<int>{},
          py::arg("embedding_device") = -1, py::arg("head_device") = -1, py::arg("activations") = py::none(),
          py::call_guard<py::gil_scoped_release>(),
          "Load `file`. threads: 0 for as many as the process may use; isa: '' for the machine's best. "
          "precise: activations of 15 bits instead of 8, for twice the arithmetic. pack: False leaves the "
          "weights in the file's layout. packed: where packed weights are taken from and kept. kv_type: 'f16', "
          "'q8_0', 'q8_q4', 'q6_q4' or 'q4_0'. layer_devices: the GPU of each layer, -1 for the CPU; empty: "
          "all "
          "on the CPU. activations: gathers what flows through it.")
      .def_property_readonly("architecture", [](const LoadedModel& m) { return m.config.architecture; })
      .def_property_readonly("vocab", [](const LoadedModel& m) { return m.config.vocab; })
      .def_property_readonly(
          "context_length", [](const LoadedModel& m) { return m.config.context_length; },
          "Tokens that the model was made for.")
      .def_property_readonly("dim", [](const LoadedModel& m) { return m.config.dim; })
      .def_property_readonly("layers", [](const LoadedModel& m) { return m.config.layers; })
      .def_property_readonly(
          "kv_block_bytes", [](const LoadedModel& m) { return m.kv_block_bytes; },
          "Bytes of keys and values of 16 tokens, all layers.");
}

void bind_event(py::module_& m) {
  py::class_<Event>(m, "Event", "What happened to one stream of a request in a step.")
      .def_readonly("id", &Event::id)
      .def_readonly("index", &Event::index, "The stream: 0 to n - 1.")
      .def_property_readonly(
          "token", [](const Event& e) { return e.token < 0 ? std::optional<int32_t>() : e.token; },
          "With finish_reason 'stop' it is the token that ended the text.")
      .def_readonly("logprob", &Event::logprob)
      .def_property_readonly("top_logprobs", &top_logprobs)
      .def_property_readonly("finish_reason", &finish_reason, "None, 'stop', 'length', 'cancelled' or 'error'.")
      .def_readonly("detail", &Event::detail,
                    "Of 'length': 'max_tokens', 'context' or 'kv_pool'. Of 'error': the message.")
      .def_readonly("prompt_tokens", &Event::prompt_tokens)
      .def_readonly("cached_tokens", &Event::cached_tokens, "Of the prompt, taken from the prefix cache.")
      .def_readonly("queue_s", &Event::queue_s,
                    "Seconds from submit to the first step that computed some of it.")
      .def_property_readonly("logits", &logits, "float32 [rows, vocab] of the next prompt tokens, or None.")
      .def_property_readonly("scores", &scores,
                             "float32 [tokens], log-probabilities of the next prompt tokens, or None.")
      .def_property_readonly("embedding", &embedding,
                             "float32 [dim] of length 1 at the end, with pooling, or None.");
}

LoadedEngine make_engine(LoadedModel& model, int64_t kv_bytes, int64_t context, int max_batch_tokens,
                         int max_sequences, bool prefix_cache, const std::optional<std::vector<int32_t>>& eos,
                         int64_t scratch_bytes, const py::object& masks) {
  EngineOptions options{kv_bytes, context, max_batch_tokens, max_sequences, prefix_cache, {}, scratch_bytes};
  if (eos)
    options.eos = *eos;
  else if (model.file)
    options.eos = end_tokens(*model.file, model.config.vocab);
  std::shared_ptr<MaskSource> source;
  if (!masks.is_none()) source = std::make_shared<PythonMaskSource>(masks);
  py::gil_scoped_release release;
  return {model.file, std::make_unique<Engine>(std::move(model.model), options, std::move(source))};
}

}  // namespace

void bind_engine(py::module_& m) {
  bind_model(m);
  bind_event(m);
  using Guard = py::call_guard<py::gil_scoped_release>;
  py::class_<LoadedEngine>(m, "Engine", "Continuous batching over one model. Safe to use from any thread.")
      .def(py::init(&make_engine), py::arg("model"), py::arg("kv_bytes") = 0, py::arg("context") = 0,
           py::arg("max_batch_tokens") = 512, py::arg("max_sequences") = 0, py::arg("prefix_cache") = true,
           py::arg("eos") = py::none(), py::arg("scratch_bytes") = 0, py::arg("masks") = py::none(),
           "Take over `model`. Zeros mean: decide. eos: ids that end a text; None: those the file names. "
           "scratch_bytes: of each GPU's memory, left for what a step computes. "
           "masks: an object with fill(states, tokens, address, row_bytes), see _core.pyi.")
      .def("submit", &submit, py::arg("id"), py::arg("tokens"), py::arg("params"), py::arg("priority") = 0,
           py::arg("cache_salt") = "", py::arg("want_logits") = false, py::arg("pooling") = py::none(),
           py::arg("score_from") = py::none(), py::arg("constraint") = py::list(),
           "Queue a request under an id that is not in use. Raises PyllmError when it can never run. "
           "score_from: log-probabilities of the prompt's own tokens from this one on, and nothing generated. "
           "constraint: a state for `masks` for each of n streams, or none.")
      .def(
          "cancel", [](LoadedEngine& self, uint64_t id) { self.engine->cancel(id); }, py::arg("id"), Guard(),
          "End the request at the next step; an unknown id is ignored.")
      .def(
          "step", [](LoadedEngine& self, std::optional<double> timeout) { return self.engine->step(timeout); },
          py::arg("timeout_s") = py::none(), Guard(),
          "Compute one step. Without work wait for some, at most timeout_s seconds, or until wake().")
      .def(
          "wake", [](LoadedEngine& self) { self.engine->wake(); }, Guard(), "Make a waiting step() return.")
      .def("read_kv", &read_kv, py::arg("tokens"), py::arg("first"), py::arg("count"),
           py::arg("cache_salt") = "",
           "Keys and values that the prefix cache holds of `tokens`: of at most `count` blocks of 16 tokens "
           "from "
           "block `first` on, kv_block_bytes each.")
      .def("write_kv", &write_kv, py::arg("tokens"), py::arg("first"), py::arg("data"),
           py::arg("cache_salt") = "",
           "Put such bytes into the prefix cache, as far as there is room; the blocks of `tokens` that are "
           "cached then.")
      .def("stats", &stats)
      .def_property_readonly(
          "context", [](const LoadedEngine& self) { return self.engine->context(); },
          "Tokens of a sequence at most.")
      .def_property_readonly("kv_blocks", [](const LoadedEngine& self) { return self.engine->kv_blocks(); })
      .def_property_readonly(
          "kv_block_bytes", [](const LoadedEngine& self) { return self.engine->kv_block_bytes(); },
          "Bytes of keys and values of 16 tokens, all layers.");
  m.def("layer_count", &layer_count, py::arg("file"), "Layers of a model that can be loaded, by its header.");
  m.def("known_architectures", &known_architectures, "Names of `general.architecture` that can be loaded.");
  m.def("available_memory", &available_memory, py::arg("root") = "", Guard(),
        "Bytes that can be allocated, control groups considered; 0 when the system does not tell.");
}

}  // namespace pyllm::python
