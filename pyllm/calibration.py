"""What flows through a model while it reads a text: which columns of its matrices matter, and which layers.

One forward pass of our own engine over windows of the text, as `pyllm perplexity` cuts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.perplexity import windows_of

WINDOW = 512  # tokens


@dataclass(frozen=True)
class Activations:
    """Sums over the tokens of a text.

    squares: by a matrix's GGUF name, the sum of its squared inputs, float64 [columns]. counts: how many inputs
    each matrix had. influence: of each layer, 1 - cosine of the hidden states before and after it, averaged
    over tokens (block influence; Men et al., 2024). tokens: read, in windows of `window`.
    """

    squares: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, int]
    influence: tuple[float, ...]
    tokens: int
    window: int

    @property
    def importance(self) -> dict[str, NDArray[np.float32]]:
        """Mean squared inputs, [columns] of each matrix, as quantize() takes them; rounded as a file of sums
        and counts would have them."""
        return {n: sums.astype(np.float32) / np.float32(self.counts[n]) for n, sums in self.squares.items()}


def record(
    model: str | PathLike[str],
    text: str | Sequence[Sequence[int]],
    *,
    window: int = WINDOW,
    windows: int = 0,
    done: Callable[[int, int], None] = lambda count, of: None,
    **options: Any,
) -> Activations:
    """Reads `text`, or windows of tokens, with a model: a catalogue name or a .gguf file.

    window: tokens that are read together. windows: of them at most, 0 for all that the text fills. done: hears
    after each window how many of how many there are. options: of LLM. PyllmError when the text is shorter than
    a window, or the model's numbers are not finite.
    """
    recorder = _core.Activations()
    options = {"context": window, "prefix_cache": False, "precise": True, "pack": False} | options
    with LLM(model, activations=recorder, **options) as llm:
        parts = windows_of(llm, text, window, windows) if isinstance(text, str) else text
        for number, tokens in enumerate(parts, 1):
            for _ in llm.logits_in_parts(list(tokens)):  # with logits, the head reads every token too
                pass
            done(number, len(parts))
    inputs = recorder.inputs()
    for name, (squares, _) in inputs.items():
        if not np.isfinite(squares).all():
            raise PyllmError(f"{name}: its inputs are not finite numbers; the model file may be damaged")
    influence = tuple(max(0.0, 1 - cosine / max(1, rows)) for cosine, rows in recorder.layers())
    if not all(map(math.isfinite, influence)):
        raise PyllmError("the model's hidden states are not finite numbers; its file may be damaged")
    return Activations(
        {name: squares for name, (squares, _) in inputs.items()},
        {name: rows for name, (_, rows) in inputs.items()},
        influence,
        sum(map(len, parts)),
        window,
    )
