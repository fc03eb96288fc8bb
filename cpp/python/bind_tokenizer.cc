// The parts of a tokenizer that have to be fast: merging pieces and finding special tokens. See
// pyllm/tokenizer.py.
#include "core/error.h"
#include "python/module.h"
#include "text/piece_tokenizer.h"
#include "text/special_tokens.h"

namespace pyllm::python {
namespace {

using text::PieceTokenizer;
using text::SpecialTokens;

// Views into the list's bytes objects: valid while the list holds them, and without the GIL.
std::vector<std::string_view> views(const py::list& strings, const char* what) {
  std::vector<std::string_view> out;
  out.reserve(strings.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    PyObject* item = PyList_GET_ITEM(strings.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyBytes_Check(item)) fail(what, "[", i, "]: expected bytes, found ", Py_TYPE(item)->tp_name);
    out.emplace_back(PyBytes_AS_STRING(item), static_cast<size_t>(PyBytes_GET_SIZE(item)));
  }
  return out;
}

// byte_tokens: 256 ids; -1, here and for `unknown`, stands for none.
text::Fallback fallback(const std::vector<int64_t>& byte_tokens, int64_t unknown) {
  if (byte_tokens.size() != 256) fail("byte tokens: expected 256 ids, found ", byte_tokens.size());
  const auto id = [](int64_t token) { return token < 0 ? text::none : static_cast<uint32_t>(token); };
  text::Fallback out;
  for (size_t i = 0; i < 256; ++i) out.bytes[i] = id(byte_tokens[i]);
  out.unknown = id(unknown);
  return out;
}

std::unique_ptr<PieceTokenizer> from_scores(const py::list& tokens, const std::vector<float>& scores,
                                            std::string_view usable, const std::vector<int64_t>& byte_tokens,
                                            int64_t unknown) {
  const auto pieces = views(tokens, "tokens");
  const auto bytes = fallback(byte_tokens, unknown);
  py::gil_scoped_release release;
  return std::make_unique<PieceTokenizer>(
      pieces, std::span{scores.data(), scores.size()},
      std::span{reinterpret_cast<const uint8_t*>(usable.data()), usable.size()}, bytes);
}

std::unique_ptr<PieceTokenizer> from_merges(const py::list& tokens, const py::list& merges,
                                            std::string_view usable, const std::vector<int64_t>& byte_tokens,
                                            int64_t unknown) {
  const auto pieces = views(tokens, "tokens"), pairs = views(merges, "merges");
  const auto bytes = fallback(byte_tokens, unknown);
  py::gil_scoped_release release;
  return std::make_unique<PieceTokenizer>(
      pieces, pairs, std::span{reinterpret_cast<const uint8_t*>(usable.data()), usable.size()}, bytes);
}

std::vector<uint32_t> encode(const PieceTokenizer& self, std::string_view text) {
  py::gil_scoped_release release;
  return self.encode(text);
}

// words: what the `tokenizers` library's pre-tokenizers give, (text, place) each.
std::vector<uint32_t> encode_words(const PieceTokenizer& self, const py::list& words, bool whole) {
  std::vector<std::string_view> texts;
  texts.reserve(words.size());
  for (const py::handle word : words) {
    if (!PyTuple_Check(word.ptr()) || PyTuple_GET_SIZE(word.ptr()) < 1)
      fail("words: expected (text, place), found ", Py_TYPE(word.ptr())->tp_name);
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(word.ptr(), 0), &size);
    if (text == nullptr) throw py::error_already_set();
    texts.emplace_back(text, static_cast<size_t>(size));
  }
  py::gil_scoped_release release;
  return self.encode_words(texts, whole);
}

using SpecialRow = std::tuple<std::string, uint32_t, bool, bool, bool>;

std::unique_ptr<SpecialTokens> special_tokens(const std::vector<SpecialRow>& rows) {
  std::vector<text::SpecialToken> tokens;
  for (const auto& [text, id, control, left, right] : rows) tokens.push_back({text, id, control, left, right});
  return std::make_unique<SpecialTokens>(std::move(tokens));
}

// Token ids and the texts between them, in order.
py::list split(const SpecialTokens& self, const std::vector<std::pair<std::string, bool>>& segments) {
  std::string joined;
  std::vector<text::Segment> parts;
  for (const auto& [text, trusted] : segments) {
    joined += text;
    if (!text.empty()) parts.push_back({text, trusted});
  }
  py::list out;
  for (const text::Fragment& fragment : self.split(joined, parts)) {
    if (fragment.token >= 0)
      out.append(fragment.token);
    else
      out.append(py::str(joined.data() + fragment.start, fragment.end - fragment.start));
  }
  return out;
}

}  // namespace

void bind_tokenizer(py::module_& m) {
  py::class_<PieceTokenizer>(m, "PieceTokenizer", "Merges characters into the tokens of a vocabulary.")
      .def_static("from_scores", &from_scores, py::arg("tokens"), py::arg("scores"), py::arg("usable"),
                  py::arg("byte_tokens"), py::arg("unknown"),
                  "tokens: list of bytes; scores, usable: [token]; byte_tokens: 256 ids, -1 for none.")
      .def_static("from_merges", &from_merges, py::arg("tokens"), py::arg("merges"), py::arg("usable"),
                  py::arg("byte_tokens"), py::arg("unknown"), "merges: 'left right' as bytes, first to last.")
      .def("encode_words", &encode_words, py::arg("words"), py::arg("whole"),
           "Token ids of words, each merged by itself; whole: words that are tokens are not merged.")
      .def("encode", &encode, py::arg("text"), "Token ids of text whose spaces are written as U+2581.");
  py::class_<SpecialTokens>(m, "SpecialTokens", "Finds the tokens that are matched as whole text.")
      .def(py::init(&special_tokens), py::arg("tokens"),
           "tokens: (text, id, control, strip_left, strip_right) each.")
      .def("split", &split, py::arg("segments"),
           "Cut (text, trusted) segments into token ids and the texts between them; control tokens only where "
           "the text is trusted.");
}

}  // namespace pyllm::python
