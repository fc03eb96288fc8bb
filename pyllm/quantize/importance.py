"""Importance matrices: how much each input column of a matrix matters, as llama.cpp's imatrix files have it.

Source: llama.cpp's GGUF form of them: for a matrix NAME the tensors NAME.in_sum2, sums of squared inputs
[expert, column], and NAME.counts, how many inputs were summed [expert]; and its older form (.dat): a count of
entries, then each one's name, count of calls, and sums of squared inputs [column], little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.calibration import Activations
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Tensor, Value, write_gguf
from pyllm.quantize.plan import Planned

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MOST_ENTRIES, _LONGEST_NAME, _MOST_COLUMNS = 1 << 20, 256, 1 << 28


def read_importance(path: Path) -> dict[str, NDArray[np.float32]]:
    """Mean squared inputs of each matrix by its name, [columns] or, of experts, [expert * columns].

    Experts that nothing reached have 1 throughout. PyllmError for a file of another kind.
    """
    with open(path, "rb") as stream:
        if stream.read(4) != b"GGUF":
            stream.seek(0)
            return _read_legacy(path, stream)
    file = _core.GgufFile(path)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        counts = tensors.get(matrix + _COUNTS)
        if counts is None or tensor.type != "F32" or counts.type != "F32":
            raise PyllmError(f"{path}: {matrix}: expected {_SUMS} and {_COUNTS} of type F32")
        seen = _core.dequantize("F32", file.tensor_data(counts.name), counts.n_bytes // 4)
        sums = _core.dequantize("F32", file.tensor_data(name), tensor.n_bytes // 4)
        if len(sums) % len(seen) or not (np.isfinite(sums).all() and np.isfinite(seen).all()):
            raise PyllmError(f"{path}: {matrix}: sums and counts do not fit together")
        if min(sums.min(), seen.min()) < 0:
            raise PyllmError(f"{path}: {matrix}: a sum of squares or a count is negative")
        by_expert = sums.reshape(len(seen), -1) / np.maximum(seen, 1)[:, None]
        by_expert[seen == 0] = 1
        found[matrix] = by_expert.astype(np.float32).reshape(-1)
    if not found:
        raise PyllmError(f"{path}: not an importance matrix: it has no tensors NAME{_SUMS}")
    return found


def write_importance(path: Path, activations: Activations, architecture: str, dataset: str) -> None:
    """What read_importance reads, in llama.cpp's form. dataset: the name of the text that was read."""
    tensors = []
    for name, squares in sorted(activations.squares.items()):
        for suffix, values in ((_SUMS, squares), (_COUNTS, np.array([activations.counts[name]]))):
            data = values.astype(np.float32)
            shape, kind = (1, len(data)), GGMLQuantizationType.F32
            tensors.append(Tensor(name + suffix, shape, kind, lambda data=data: [data]))  # type: ignore[misc]
    number = GGUFValueType.UINT32
    metadata = {
        "general.type": Value("imatrix", GGUFValueType.STRING),
        "imatrix.datasets": Value([dataset], GGUFValueType.ARRAY, GGUFValueType.STRING),
        "imatrix.chunk_count": Value(activations.tokens // activations.window, number),
        "imatrix.chunk_size": Value(activations.window, number),
    }
    write_gguf(path, architecture, metadata, tensors)


def _read_legacy(path: Path, stream: BinaryIO) -> dict[str, NDArray[np.float32]]:
    """The older form. Sums are scaled by the calls: only their ratios count when a matrix is quantized."""

    def wrong(why: str) -> PyllmError:
        return PyllmError(f"{path}: not an importance matrix, in GGUF form or the older one: {why}")

    left = path.stat().st_size

    def read(size: int) -> bytes:
        nonlocal left
        left -= size
        data = stream.read(size) if left >= 0 else b""
        if len(data) != size:
            raise wrong("it ends too early")
        return data

    def number(most: int) -> int:
        (value,) = struct.unpack("<i", read(4))
        if not 0 < value <= most:
            raise wrong(f"a count or length of {value}")
        return int(value)

    found = {}
    for _ in range(number(_MOST_ENTRIES)):
        try:
            name = read(number(_LONGEST_NAME)).decode()
        except UnicodeDecodeError:
            raise wrong("a name is no text") from None
        (calls,) = struct.unpack("<i", read(4))
        sums = np.frombuffer(read(4 * number(_MOST_COLUMNS)), "<f4").astype(np.float32)
        if name in found or calls < 0 or not np.isfinite(sums).all() or sums.min() < 0:
            raise wrong(f"{name!r:.80} is there twice, or holds sums that are negative or not finite")
        found[name] = sums / np.float32(max(calls, 1)) if sums.any() else np.ones_like(sums)
    return found


def check_importance(importance: Mapping[str, NDArray[np.float32]], plan: Sequence[Planned]) -> list[str]:
    """Notes on matrices without importance. PyllmError where one has that of another size."""
    missing = 0
    for planned in plan:
        if planned.type == planned.source or len(planned.shape) < 2:
            continue
        found = importance.get(planned.name)
        if found is None:
            missing += 1
            continue
        experts = planned.weights // (planned.columns * planned.shape[-2])
        if len(found) not in (planned.columns, experts * planned.columns):
            raise PyllmError(
                f"{planned.name}: {len(found)} columns have an importance, the matrix has {planned.columns}: "
                "the importance matrix is of another model"
            )
    return [f"{missing} matrices have no importance in the file"] if missing else []
