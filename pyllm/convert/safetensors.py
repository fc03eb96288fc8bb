"""Reading safetensors files, single or in shards, with every number in a header checked before it is used.

Source: the safetensors format: 8 bytes length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.errors import PyllmError

HEADER_LIMIT = 100_000_000  # the format's own
BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file. shape: slowest-varying first. start: of its data in the file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        """Of the last dimension."""
        return self.shape[-1] * BYTES[self.dtype]

    def rows(self, first: int, count: int) -> NDArray[np.uint8]:
        """Rows of the last dimension as they are stored: [count, row_bytes]."""
        with open(self.path, "rb") as file:
            file.seek(self.start + first * self.row_bytes)
            data = file.read(count * self.row_bytes)
        if len(data) != count * self.row_bytes:
            raise PyllmError(f"{self.path}: {self.name}: the file became shorter while it was read")
        return np.frombuffer(data, np.uint8).reshape(count, self.row_bytes)


def read_folder(folder: Path) -> dict[str, Entry]:
    """All tensors of a model's folder by name. PyllmError for what is missing, damaged or a path trick."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if not single.is_file():
            raise PyllmError(
                f"{folder}: expected model.safetensors or model.safetensors.index.json; other formats of "
                "weights, such as pickled .bin files, are not read"
            )
        return {entry.name: entry for entry in read_file(single)}
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise PyllmError(f"{index}: weight_map: expected the file of every tensor")
    found: dict[str, Entry] = {}
    for name in sorted({str(name) for name in places.values()}):
        if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
            raise PyllmError(f"{index}: weight_map: {name!r} is no plain file name")
        for entry in read_file(folder / name):
            if entry.name in found:
                raise PyllmError(f"{entry.path}: {entry.name} is in {found[entry.name].path.name} too")
            found[entry.name] = entry
    for name, file in places.items():
        if name not in found or found[name].path.name != file:
            raise PyllmError(f"{index}: {name} is not in {file}")
    return found


def read_file(path: Path) -> Iterator[Entry]:
    """The tensors of one file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise PyllmError(f"{path}: a header of {length} bytes in a file of {size}")
            header = parse_json(path, file.read(length))
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}") from error
    end = 0
    spans = []
    for name, about in header.items():
        if name == "__metadata__":
            continue
        entry, span = _entry(path, name, about, 8 + length, size)
        spans.append((*span, name))
        yield entry
    for start, stop, name in sorted(spans):
        if start < end:
            raise PyllmError(f"{path}: {name} overlaps another tensor")
        end = stop


def _entry(path: Path, name: str, about: Any, base: int, size: int) -> tuple[Entry, tuple[int, int]]:
    if not isinstance(about, dict):
        raise PyllmError(f"{path}: {name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = (about.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise PyllmError(f"{path}: {name}: type {dtype!r}; expected one of {', '.join(BYTES)}")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 4 or not all(_whole(n, 1) for n in shape):
        raise PyllmError(f"{path}: {name}: shape {str(shape)[:60]}: expected 1 to 4 sizes from 1")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(n, 0) for n in offsets):
        raise PyllmError(f"{path}: {name}: data_offsets {str(offsets)[:60]}: expected [start, end]")
    start, stop = offsets
    if stop - start != math.prod(shape) * BYTES[dtype] or base + stop > size:
        raise PyllmError(
            f"{path}: {name}: bytes {start} to {stop} for shape {shape} of {dtype}, the file has {size - base}"
        )
    return Entry(path, name, dtype, tuple(shape), base + start), (start, stop)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 48


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. PyllmError when it is missing or something else."""
    try:
        return parse_json(path, path.read_bytes())
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}") from error


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PyllmError(f"{path}: not JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise PyllmError(f"{path}: expected a JSON object")
    return found
