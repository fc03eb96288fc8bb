"""Single weights, which become 0: the least by their size times the size of their inputs, in each row.

Source: Sun et al., 2023 (Wanda). The file keeps its size, and kernels for dense weights their speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft, Floats
from pyllm.quantize.inspect import weights_of

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Pattern:
    """`zeros` weights of every run of `run` in a row; a run of 0 is the whole row, and `zeros` a share."""

    zeros: float
    run: int = 0

    @staticmethod
    def parse(text: str) -> Pattern:
        """From 50% or 2:4. PyllmError for anything else."""
        if among := re.fullmatch(r"(\d{1,4}):(\d{1,4})", text):
            zeros, run = int(among[1]), int(among[2])
            if 0 < zeros < run:
                return Pattern(zeros, run)
        elif (share := parse_share(text)) is not None:
            return Pattern(share)
        raise PyllmError(f"{text!r}: expected a share such as 50%, or 2:4 for 2 of every 4 weights")

    def __str__(self) -> str:
        return f"{self.zeros:.0f}:{self.run}" if self.run else f"{100 * self.zeros:.4g}%"


def parse_share(text: str) -> float | None:
    """'25%' -> 0.25; None for what is no percentage above 0 and below 100."""
    number = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", text)
    share = float(number[1]) / 100 if number else 0.0
    return share if 0 < share < 1 else None


def make_sparse(draft: Draft, pattern: Pattern, importance: Mapping[str, Floats]) -> None:
    """In all matrices of the layers; embeddings and head stay."""
    for layer in range(draft.shape.layers):
        for part in PARTS:
            name = f"blk.{layer}.{part}.weight"
            edit = draft.edit(name)
            inputs = importance.get(name)
            if inputs is None or len(inputs) != edit.tensor.shape[-1]:
                raise PyllmError(f"{name}: expected the activations of {edit.tensor.shape[-1]} columns")
            if edit.columns is not None:
                inputs = inputs[edit.columns]
            if pattern.run and len(inputs) % pattern.run:
                raise PyllmError(f"{name}: {len(inputs)} columns are no multiple of {pattern.run}")
            edit.zeros = _zeros(np.sqrt(inputs), pattern)


def _zeros(norms: Floats, pattern: Pattern) -> Callable[[Floats], None]:
    def apply(weights: Floats) -> None:
        run = pattern.run or weights.shape[1]
        count = int(pattern.zeros) if pattern.run else round(pattern.zeros * run)
        by_run = weights.reshape(-1, run)
        score = np.abs(weights * norms).reshape(-1, run)
        np.put_along_axis(by_run, np.argsort(score, axis=1, kind="stable")[:, :count], np.float32(0), axis=1)

    return apply


def share_of_zeros(path: Path) -> float:
    """Of the weights that make_sparse may change, in a written file."""
    file = _core.GgufFile(path)
    zeros = total = 0
    for tensor in file.tensors:
        if re.fullmatch(rf"blk\.\d+\.({'|'.join(PARTS)})\.weight", tensor.name):
            for weights in weights_of(file, tensor):
                zeros += len(weights) - int(np.count_nonzero(weights))
                total += len(weights)
    return zeros / max(1, total)
