"""Writes small GGUF vocabularies for tests: a byte-level one, a SentencePiece one, and variations of both."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
Token = tuple[str | bytes, int]  # text as stored, type


def write_vocabulary(
    path: str | PathLike[str],
    model: str,
    tokens: Sequence[Token],
    *,
    pre: str | None = None,
    merges: Sequence[str | bytes] | None = None,
    scores: Sequence[float] | None = None,
    template: str | None = None,
    keys: Mapping[str, Any] | None = None,
) -> str:
    """A GGUF file without tensors. `keys`: further tokenizer.ggml.* values; bool, int, list or str. None leaves
    out a key that would be written otherwise."""
    values: dict[str, Any] = {
        "model": model,
        "pre": pre,
        "tokens": [text for text, _ in tokens],
        "token_type": [kind for _, kind in tokens],
        "merges": merges,
        "scores": scores,
    }
    values.update(keys or {})
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    for key, value in values.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None and len(value):
            writer.add_array(name, list(value))
    if template is not None:
        writer.add_string("tokenizer.chat_template", template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)


def byte_characters() -> list[str]:
    prints = [b for b in range(256) if 0x21 <= b < 0x7F or 0xA1 <= b < 0xAD or b >= 0xAE]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in prints else chr(next(others)) for b in range(256)]


def learn_merges(words: Iterable[Sequence[str]], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding as it was published: the commonest pair becomes a token, again and again."""
    pieces = [list(word) for word in words if len(word) > 1]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for word in pieces for pair in itertools.pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def byte_level(texts: Iterable[str], merges: int = 400) -> tuple[list[Token], list[str]]:
    """Tokens and merges of a byte-level vocabulary, with ChatML's control tokens and two user-defined ones.
    It is learnt without any splitting, so that only a pre-tokenizer keeps its tokens from crossing words."""
    special = [("<|endoftext|>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
    special += [("[user]", USER_DEFINED), ("  \n", USER_DEFINED)]
    characters = byte_characters()
    learnt = learn_merges([[characters[b] for b in text.encode()] for text in texts], merges)
    learnt = [(a, b) for a, b in learnt if a + b not in {*dict(special), "</s>"}]
    words = dict.fromkeys([*characters, *(a + b for a, b in learnt)])
    return [(word, NORMAL) for word in words] + special, [f"{a} {b}" for a, b in learnt]


def pieces(texts: Iterable[str], merges: int = 400, seed: int = 7) -> tuple[list[Token], list[float]]:
    """Tokens and scores of a SentencePiece vocabulary; some scores are equal, as in real files. No merge leads
    to the text of a control token: llama.cpp, which the golden ids come from, would take it for that token."""
    plain = [piece.replace(" ", "\u2581") for text in texts for piece in re.split("[<>\0]", text)]
    learnt = learn_merges(plain, merges)
    characters = sorted({c for text in texts for c in text if 32 < ord(c) < 0x3000} | {"\u2581"})
    words = list(dict.fromkeys(a + b for a, b in learnt))
    tokens: list[Token] = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{b:02X}>", BYTE) for b in range(256)]
    tokens += [("<turn>", USER_DEFINED), ("\u2581\u2581\u2581\u2581", USER_DEFINED)]
    known = {text for text, _ in tokens}
    rng = random.Random(seed)
    scores = [0.0] * len(tokens)
    for rank, word in enumerate(word for word in words if word not in known):
        tokens.append((word, NORMAL))
        scores.append(-float(rank // rng.choice([1, 1, 1, 8])))
    for character in characters:
        if character not in known and character not in words:
            tokens.append((character, NORMAL))
            scores.append(-1e6)
    return tokens, scores


def listed_merges(tokens: Sequence[Token], scores: Sequence[float]) -> list[str]:
    """The merge list of a SentencePiece vocabulary: every way to make a token of two others, best score first.
    Newlines stay apart, as in Gemma 4's."""
    known = {text: i for i, (text, kind) in enumerate(tokens) if kind in (NORMAL, USER_DEFINED)}
    order = sorted(
        (text for text, i in known.items() if tokens[i][1] == NORMAL), key=lambda t: (-scores[known[t]], t)
    )
    return [
        f"{text[:cut]} {text[cut:]}"
        for text in order
        for cut in range(1, len(text))
        if text[:cut] in known and text[cut:] in known and "\n" not in text
    ]
