"""llama.cpp's calls that the oracle and the bench share, through llama-cpp-python's low-level binding."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np


@functools.cache
def only_errors() -> Any:
    """A log callback; cached, for llama.cpp keeps the pointer."""

    def log(level: int, text: bytes, _: object) -> None:
        if level == 4:
            print(text.decode(errors="replace"), end="", file=sys.stderr)

    return llama_cpp.llama_log_callback(log)


def load(path: str) -> Any:
    """The model in a file. RuntimeError when there is none."""
    llama_cpp.llama_log_set(only_errors(), ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    return model


def decode(context: Any, batch: Any, entries: Sequence[tuple[int, int, int, bool]]) -> None:
    """Computes (token, position, sequence, wants logits) entries, as many as `batch` has room for at most."""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = wanted
    status = llama_cpp.llama_decode(context, batch)
    if status != 0:
        raise RuntimeError(f"llama_decode returned {status}")


def rows(context: Any, count: int, vocabulary: int) -> np.ndarray:
    """Logits of the last decode, a view, once they are there: float32 [count, vocabulary]."""
    pointer = llama_cpp.llama_get_logits(context)
    address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * (count * vocabulary)))
    return np.frombuffer(address.contents, np.float32).reshape(count, vocabulary)
