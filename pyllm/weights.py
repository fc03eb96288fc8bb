"""Where weights come from when a file is written: another GGUF file, or anything else with rows of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.gguf_writer import Value, metadata_of


@dataclass(frozen=True)
class SourceTensor:
    """shape: slowest-varying first, a matrix is [rows, columns]."""

    name: str
    type: str
    shape: tuple[int, ...]


class Source(Protocol):
    """A model's tensors and what its GGUF file is to say about them."""

    @property
    def paths(self) -> Sequence[str]: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def tensors(self) -> Sequence[SourceTensor]: ...
    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the source."""
        ...

    def metadata(self) -> Mapping[str, Value]: ...
    def rows(self, name: str, first: int, count: int) -> NDArray[np.uint8]:
        """Rows of the last dimension, those of all matrices of a tensor counted on: [count, bytes]."""
        ...


class GgufSource:
    notes: Sequence[str] = ()

    def __init__(self, path: str | PathLike[str]) -> None:
        self.file = _core.GgufFile(path)
        self.tensors = [SourceTensor(t.name, t.type, tuple(reversed(t.shape))) for t in self.file.tensors]
        self._row_bytes = {}
        for tensor in self.tensors:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type]]
            self._row_bytes[tensor.name] = tensor.shape[-1] // block * int(size)

    @property
    def paths(self) -> list[str]:
        return self.file.paths

    @property
    def n_bytes(self) -> int:
        return self.file.file_bytes

    def metadata(self) -> dict[str, Value]:
        return metadata_of(self.file)

    def rows(self, name: str, first: int, count: int) -> NDArray[np.uint8]:
        data: NDArray[Any] = self.file.tensor_data(name).reshape(-1, self._row_bytes[name])
        return data[first : first + count]
