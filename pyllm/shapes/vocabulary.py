"""Vocabularies for random models: a synthetic one, or another file's."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
from gguf.constants import TokenType

from pyllm import _core
from pyllm.errors import PyllmError


def byte_vocabulary(size: int) -> dict[str, Any]:
    """A byte-level BPE vocabulary: three control tokens, the bytes, and merges of tokens before them.

    As many merges as other vocabularies have: they are what loading a tokenizer costs.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    invisible = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(invisible)}
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *(letters[byte] for byte in range(256))]
    if size < len(tokens):
        raise PyllmError(f"vocab: expected at least {len(tokens)}, got {size}")
    merges = list(itertools.islice(word_merges(letters[32]), size - len(tokens)))
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (size - len(control))
    tokens += [left + right for left, right in merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges] or None,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
        ),
    }


def word_merges(space: str) -> Iterator[tuple[str, str]]:
    """Pairs to merge, without end: pairs of letters, then pairs of what came before, each result once."""
    common = "etaoinshrdlucmfwypvbgkjqxz"
    source = random.Random(0)
    words = []
    for left, right in itertools.chain(itertools.product([space], common), itertools.product(common, common)):
        words.append(left + right)
        yield left, right
    known = set(words)
    while True:
        # Rank by rank: mostly short ones, as frequent words are.
        left, right = (words[int(len(words) * source.random() ** 2)] for _ in range(2))
        word = left + right
        if len(word) <= 16 and word not in known and space not in right:
            known.add(word)
            words.append(word)
            yield left, right


def copied_vocabulary(path: str | PathLike[str], size: int) -> dict[str, Any]:
    """The tokenizer's keys of a GGUF file, with unused tokens up to `size`."""
    source = _core.GgufFile(path)  # the gguf package's reader takes seconds on a real vocabulary
    keys = [key for key in source.keys() if key.startswith("tokenizer.")]  # noqa: SIM118
    words: dict[str, Any] = {key: source.get(key) for key in keys}
    for key, value in words.items():
        if isinstance(value, np.ndarray):
            words[key] = value.tolist()
        elif isinstance(value, list):
            words[key] = source.string_bytes(key)
    if "tokenizer.ggml.tokens" not in words:
        raise PyllmError(f"{path}: it has no vocabulary")
    count = len(words["tokenizer.ggml.tokens"])
    if size and size < count:
        raise PyllmError(f"vocab: expected at least the {count} tokens of {path}, got {size}")
    unused = size - count if size else 0
    fill: dict[str, list[Any]] = {"tokens": [f"[unused{i}]" for i in range(unused)], "scores": [-1e3] * unused}
    fill["token_type"] = [int(TokenType.UNUSED)] * unused
    for key, values in fill.items():
        if f"tokenizer.ggml.{key}" in words:
            words[f"tokenizer.ggml.{key}"] += values
    return words
