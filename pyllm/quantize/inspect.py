"""What the weights of a file are like, and how far another file's are from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import PyllmError

SLICE = 1 << 20  # weights looked at at once, a multiple of every block


@dataclass(frozen=True)
class Error:
    """Of one tensor against another. relative: root mean square error / root mean square."""

    type: str
    relative: float
    largest: float


@dataclass(frozen=True)
class Statistics:
    """Of a tensor's finite weights. shape: slowest-varying first. bad: how many are NaN or infinite."""

    name: str
    type: str
    shape: tuple[int, ...]
    low: float
    high: float
    deviation: float
    bad: int
    error: Error | None = None


def inspect(path: Path, other: Path | None = None, pattern: str = "") -> Iterator[Statistics]:
    """Every tensor of `path` with `pattern` in its name, in the file's order; `other`'s error where it has it.

    PyllmError for bad files, tensors that are no weights, and tensors of one name and two shapes.
    """
    file = _core.GgufFile(path)
    peer = _core.GgufFile(other) if other else None
    theirs = {tensor.name: tensor for tensor in peer.tensors} if peer else {}
    for tensor in file.tensors:
        if pattern not in tensor.name:
            continue
        twin = theirs.get(tensor.name)
        if twin and twin.shape != tensor.shape:
            raise PyllmError(
                f"{tensor.name}: {list(tensor.shape)} in {path}, {list(twin.shape)} in {other}: "
                "these are not two files of one model"
            )
        low, high, bad, count, total, squares = math.inf, -math.inf, 0, 0, 0.0, 0.0
        wrong, largest = 0.0, 0.0
        pairs = zip(
            weights_of(file, tensor), weights_of(peer, twin) if peer and twin else _nothing(), strict=False
        )
        for x, y in pairs:
            finite = x[np.isfinite(x)]
            bad += len(x) - len(finite)
            if len(finite):
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            count += len(finite)
            total += float(finite.sum(dtype=np.float64))
            squares += float(np.square(finite, dtype=np.float64).sum())
            if y is not None:
                apart = np.abs(x.astype(np.float64) - y)
                wrong += float((apart**2).sum())
                largest = max(largest, float(apart.max()))
        mean = total / count if count else 0.0
        deviation = math.sqrt(max(0.0, squares / count - mean**2)) if count else 0.0
        error = None
        if twin:
            relative = math.sqrt(wrong / squares) if squares else math.inf if wrong else 0.0
            error = Error(twin.type, relative, largest)
        shape = tuple(reversed(tensor.shape))
        yield Statistics(tensor.name, tensor.type, shape, low, high, deviation, bad, error)


def weights_of(file: _core.GgufFile, tensor: _core.TensorInfo) -> Iterator[NDArray[np.float32]]:
    """All weights of a tensor as float32, slice by slice."""
    if tensor.type not in _core.quant_types():
        raise PyllmError(f"{tensor.name}: {tensor.type} is not a type of weights")
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type]]
    data, step = file.tensor_data(tensor.name), SLICE // block * size
    for first in range(0, len(data), step):
        part = data[first : first + step]
        yield _core.dequantize(tensor.type, part, len(part) // size * block)


def _nothing() -> Iterator[None]:
    while True:
        yield None
