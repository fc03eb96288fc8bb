"""Makes the tokenizers' golden files from independent implementations: llama.cpp's splitting code, the `regex`
package for expressions that llama.cpp only approximates, and llama-cpp-python for token ids.

    python tests/golden/tokenizer/make.py LLAMA_CPP_SOURCE [--model smollm2=FILE --model gemma3=FILE]

Needs a C++ compiler, llama-cpp-python, regex, numpy and gguf. Writes texts.json, splits.json, ids.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from texts import texts  # noqa: E402
from vocabularies import byte_level, listed_merges, pieces, write_vocabulary  # noqa: E402

SPLITTER = r"""
#include "unicode.h"
#include <iostream>
#include <sstream>
static std::string bytes(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) out += char(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}
int main() {
  std::vector<std::string> expressions;
  for (std::string line; std::getline(std::cin, line);) {
    if (line[0] == 'E') {
      expressions.clear();
      std::istringstream words(line.substr(1));
      for (std::string word; words >> word;) expressions.push_back(bytes(word));
    } else {
      for (const auto& piece : unicode_regex_split(bytes(line.substr(1)), expressions, false))
        std::cout << piece.size() << ' ';
      std::cout << "\n";
    }
  }
}
"""

# Where llama.cpp approximates the model's own expression, that one counts, as its tokenizer.json has it.
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END"
    r"|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?"
_GPT4O = _CASED.replace("END", _END).replace("DIGITS", r"\p{N}{1,3}")
_THREES = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
OWN = {
    "tekken": [_CASED.replace("END", "").replace("DIGITS", r"\p{N}")],
    "gpt-4o": [_GPT4O],
    "granite-embed-multi-97m": [_GPT4O],
    "tiny_aya": [_THREES, _GPT4O],
    "kimi-k2": [
        r"\p{Han}+|" + _GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("[\\r\\n/]*", "[\\r\\n]*")
    ],
}
SKIPPED = {
    "whitespace",
    "youtu",
    "afmoe",
}  # embeddings; and expressions only known through llama.cpp's rewriting


def digest(ids: list[int]) -> str:
    return f"{zlib.crc32(' '.join(map(str, ids)).encode()):08x}"


def expressions(source: Path) -> dict[str, list[str]]:
    """tokenizer.ggml.pre -> llama.cpp's expressions for it."""
    text = (source / "src" / "llama-vocab.cpp").read_text()
    cases = text[
        text.index("switch (vocab.get_pre_type())") : text.index("std::vector<std::string> regex_exprs;\n")
    ]
    cases = re.sub(r"^\s*//.*$", "", cases, flags=re.M)
    escapes = {"n": "\n", "r": "\r", "t": "\t"}
    families: dict[str, list[str]] = {}
    pattern = r"((?:\s*(?:case LLAMA_VOCAB_PRE_TYPE_\w+|default):)+)\s*regex_exprs = \{(.*?)\};"
    for labels, body in re.findall(pattern, cases, re.S):
        strings = re.findall(r'"((?:[^"\\]|\\.)*)"', body)
        found = [re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), s) for s in strings]
        for label in re.findall(r"PRE_TYPE_(\w+)|default", labels):
            families[label or "DEFAULT"] = found
    loading = text[text.index("only BPE models have pre-tokenizers") :]
    loading = loading[: loading.index("type == LLAMA_VOCAB_TYPE_SPM")]
    pattern = (
        r'if \(((?:\s*tokenizer_pre == "[^"]+"\s*(?:\|\|)?)+)\) \{\s*pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+);'
    )
    return {
        name: families.get(family, families["DEFAULT"])
        for names, family in re.findall(pattern, loading)
        for name in re.findall(r'"([^"]+)"', names)
    }


class Splitter:
    def __init__(self, source: Path, folder: Path) -> None:
        code, self.program = folder / "split.cc", folder / "split"
        code.write_text(SPLITTER)
        unicode = [source / "src" / name for name in ("unicode.cpp", "unicode-data.cpp")]
        subprocess.run(
            [
                "g++",
                "-std=c++17",
                "-O1",
                f"-I{source / 'src'}",
                str(code),
                *map(str, unicode),
                "-o",
                str(self.program),
            ],
            check=True,
        )

    def __call__(self, patterns: list[str], samples: list[str]) -> list[list[int]]:
        lines = ["E" + " ".join(p.encode().hex() for p in patterns), *("T" + s.encode().hex() for s in samples)]
        run = subprocess.run([self.program], input="\n".join(lines), capture_output=True, text=True, check=True)
        return [[int(n) for n in line.split() if n != "0"] for line in run.stdout.splitlines()]


def split_own(patterns: list[str], text: str) -> list[int]:
    import regex

    cuts = [text]
    for pattern in patterns:
        compiled = regex.compile(pattern, regex.V1)
        out: list[str] = []
        for piece in cuts:
            at = 0
            for match in compiled.finditer(piece):
                out += [piece[at : match.start()], piece[match.start() : match.end()]]
                at = match.end()
            out.append(piece[at:])
        cuts = [piece for piece in out if piece]
    return [len(piece.encode()) for piece in cuts]


class Peer:
    """llama-cpp-python with a vocabulary only."""

    def __init__(self, path: str) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        self.model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model.model)

    def ids(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        buffer = (self.api.llama_token * (2 * len(data) + 16))()
        count = self.api.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), False, special)
        assert count >= 0
        return list(buffer[:count])

    def stops(self) -> list[int]:
        count = self.api.llama_vocab_n_tokens(self.vocab)
        return [i for i in range(count) if self.api.llama_vocab_is_eog(self.vocab, i)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path, help="llama.cpp's source tree")
    parser.add_argument("--model", action="append", default=[], help="NAME=FILE of a real model")
    arguments = parser.parse_args()
    samples = [text for text in texts(120, seed=2) if text]
    write("texts.json", samples)

    by_name = expressions(arguments.source)
    splits: dict[str, dict[str, Any]] = {}
    ids: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        split = Splitter(arguments.source, folder)
        seen: dict[str, str] = {}
        tokens, merges = byte_level(samples)
        # All names that share llama.cpp's approximation share the expression behind it.
        approximated = {json.dumps(by_name[name]): name for name in OWN}
        own = {name: OWN[found] for name, p in by_name.items() if (found := approximated.get(json.dumps(p)))}
        for name, patterns in by_name.items():
            if name in SKIPPED:
                continue
            family = seen.setdefault(json.dumps(own.get(name, patterns)), name)
            if family != name:
                splits[name] = {"same_as": family}
                continue
            if name in own:
                cuts = [split_own(own[name], sample) for sample in samples]
            else:
                cuts = split(patterns, samples)
            oracle = "regex" if name in own else "llama.cpp"
            splits[name] = {"oracle": oracle, "cuts": [" ".join(map(str, cut)) for cut in cuts]}
        for name in by_name:  # ids for every name: flags such as ignore_merges are part of what it means
            if name in SKIPPED or splits[splits[name].get("same_as", name)]["oracle"] == "regex":
                continue
            if name in ("gemma4", "granite-embed-multi-311m", "sarvam-moe"):
                continue
            path = write_vocabulary(folder / "small.gguf", "gpt2", tokens, pre=name, merges=merges)
            peer = Peer(path)
            ids[f"small-{name}"] = " ".join(digest(peer.ids(sample, False)) for sample in samples)
        ids["small-spm"] = small_pieces(folder, samples, "llama")
        ids["small-gemma4"] = small_pieces(folder, samples, "gemma4")
    for entry in arguments.model:
        name, _, path = entry.partition("=")
        peer = Peer(path)
        ids[name] = {
            "stops": peer.stops(),
            "plain": [peer.ids(sample, False) for sample in samples],
            "special": [peer.ids(sample, True) for sample in samples],
        }
    for path in sorted((arguments.source / "models").glob("ggml-vocab-*.gguf")):
        if path.stem.endswith(("bert-bge", "nomic-bert-moe")):  # other kinds of tokenizer
            continue
        peer = Peer(str(path))
        ids[path.stem] = {
            "stops": peer.stops(),
            "plain": " ".join(digest(peer.ids(sample, False)) for sample in samples),
            "special": " ".join(digest(peer.ids(sample, True)) for sample in samples),
        }
    write("splits.json", splits)
    write("ids.json", ids)


def small_pieces(folder: Path, samples: list[str], model: str) -> dict[str, str]:
    tokens, scores = pieces(samples)
    path = folder / "pieces.gguf"
    if model == "llama":
        write_vocabulary(path, model, tokens, scores=scores)
    else:
        write_vocabulary(path, model, tokens, merges=listed_merges(tokens, scores), keys={"bos_token_id": 1})
    peer = Peer(str(path))
    return {
        "plain": " ".join(digest(peer.ids(sample, False)) for sample in samples),
        "special": " ".join(digest(peer.ids(sample, True)) for sample in samples),
    }


def write(name: str, value: Any) -> None:
    text = json.dumps(
        value, ensure_ascii=True, indent=None if name == "texts.json" else 0, separators=(",", ":")
    )
    if name == "ids.json":
        text = re.sub(r"(?<=[\d\[,])\n(?=[\d\[\]])", "", text)
    (HERE / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
