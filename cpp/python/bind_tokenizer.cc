// What a tokenizer needs done fast: preparing merges, and finding special tokens. See pyllm/tokenizer.py.
#include "core/error.h"
#include "python/module.h"
#include "text/merges.h"
#include "text/special_tokens.h"

namespace pyllm::python {
namespace {

// Views into the strings' own UTF-8, valid as long as the list's strings live.
std::vector<std::string_view> views(const py::list& strings, const char* what) {
  std::vector<std::string_view> out;
  out.reserve(strings.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    PyObject* item = PyList_GET_ITEM(strings.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyUnicode_Check(item)) fail(what, "[", i, "]: expected text, found ", Py_TYPE(item)->tp_name);
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(item, &size);
    if (data == nullptr) throw py::error_already_set();
    out.emplace_back(data, static_cast<size_t>(size));
  }
  return out;
}

// Pairs of the list's own string objects.
py::list pairs(const py::list& tokens, const std::vector<text::Merge>& merges) {
  py::list out(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    PyObject* pair = PyTuple_Pack(2, PyList_GET_ITEM(tokens.ptr(), merges[i].left),
                                  PyList_GET_ITEM(tokens.ptr(), merges[i].right));
    if (pair == nullptr) throw py::error_already_set();
    PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i), pair);
  }
  return out;
}

py::list merges_from_scores(const py::list& tokens, const py::array_t<float, py::array::c_style>& scores,
                            const py::array_t<uint8_t, py::array::c_style>& usable) {
  const auto texts = views(tokens, "tokens");
  return pairs(tokens, text::merges_from_scores(texts, {scores.data(), static_cast<size_t>(scores.size())},
                                                {usable.data(), static_cast<size_t>(usable.size())}));
}

py::list merges_from_lines(const py::list& tokens, const py::list& lines) {
  return pairs(tokens, text::merges_from_lines(views(tokens, "tokens"), views(lines, "merges")));
}

std::vector<text::SpecialToken> special_tokens(const py::list& rows) {
  std::vector<text::SpecialToken> out;
  for (const auto& row : rows) {
    const auto [text, id, control, left, right] =
        row.cast<std::tuple<std::string, uint32_t, bool, bool, bool>>();
    out.push_back({text, id, control, left, right});
  }
  return out;
}

// Segments as (text, trusted); gives token ids and the texts between them, in order.
py::list split(const text::SpecialTokens& self, const std::vector<std::pair<std::string, bool>>& segments) {
  std::string joined;
  std::vector<text::Segment> views;
  for (const auto& [text, trusted] : segments) {
    joined += text;
    views.push_back({text, trusted});
  }
  py::list out;
  for (const text::Fragment& fragment : self.split(joined, views)) {
    if (fragment.token >= 0)
      out.append(fragment.token);
    else
      out.append(py::str(joined.data() + fragment.start, fragment.end - fragment.start));
  }
  return out;
}

}  // namespace

void bind_tokenizer(py::module_& m) {
  m.def("merges_from_scores", &merges_from_scores, py::arg("tokens"), py::arg("scores"), py::arg("usable"),
        "Merge pairs of a SentencePiece vocabulary, first to last. scores, usable: [token].");
  m.def("merges_from_lines", &merges_from_lines, py::arg("tokens"), py::arg("lines"),
        "Merge pairs from 'left right' lines, without those that can never happen.");
  py::class_<text::SpecialTokens>(m, "SpecialTokens", "Finds special tokens in text.")
      .def(py::init([](const py::list& rows) { return text::SpecialTokens(special_tokens(rows)); }),
           py::arg("tokens"), "tokens: (text, id, control, strip_left, strip_right) each.")
      .def("split", &split, py::arg("segments"),
           "Cut (text, trusted) segments into token ids and the texts between them.");
}

}  // namespace pyllm::python
