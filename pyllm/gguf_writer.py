"""Writing GGUF files tensor by tensor, in bounded memory."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from pyllm.errors import PyllmError
from pyllm.files import new_file
from pyllm.progress import megabytes

if TYPE_CHECKING:
    from pyllm._core import Buffer, GgufFile


@dataclass(frozen=True)
class Value:
    """A metadata value with the type that it has in the file; `element`: of an array's elements."""

    value: Any
    type: GGUFValueType
    element: GGUFValueType | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor to write. shape: slowest-varying first, a matrix is [rows, columns].

    pieces: its bytes, in order, made when their turn has come.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    pieces: Callable[[], Iterable[Buffer]]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """In bytes along the last dimension."""
        block, size = GGML_QUANT_SIZES[self.type]
        return (*self.shape[:-1], self.shape[-1] // block * size)

    @property
    def n_bytes(self) -> int:
        return math.prod(self.stored_shape)


def typed(value: Any) -> Value:
    """A plain Python value with the type that is usual for it."""
    if isinstance(value, bool):
        return Value(value, GGUFValueType.BOOL)
    if isinstance(value, int):
        return Value(value, GGUFValueType.UINT32 if value >= 0 else GGUFValueType.INT32)
    if isinstance(value, float):
        return Value(value, GGUFValueType.FLOAT32)
    if isinstance(value, str):
        return Value(value, GGUFValueType.STRING)
    return Value(list(value), GGUFValueType.ARRAY)


def metadata_of(file: GgufFile) -> dict[str, Value]:
    """All of a file's metadata as it stands there, but for how it was split into files.

    PyllmError for arrays of arrays, which no model has.
    """
    found = {}
    for key in file.keys():  # noqa: SIM118  (not a mapping)
        if key.startswith("split."):
            continue
        kind, element = file.value_type(key)
        if element is None:
            found[key] = Value(file.get(key), GGUFValueType[kind])
        elif element == "STRING":
            found[key] = Value(file.string_bytes(key), GGUFValueType.ARRAY, GGUFValueType.STRING)
        elif element == "ARRAY":
            raise PyllmError(f"{file.path}: {key}: arrays of arrays cannot be written")
        else:
            found[key] = Value(file.numbers(key), GGUFValueType.ARRAY, GGUFValueType[element])
    return found


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes a file that appears at `path` only when it is complete and on the disk.

    done: hears how many bytes of tensors are written. PyllmError when the disk is full or cannot be written.
    """
    total = sum(tensor.n_bytes for tensor in tensors)
    try:
        free = shutil.disk_usage(path.parent).free
        if total > free:
            raise PyllmError(f"{path}: needs {megabytes(total)}, {megabytes(free)} are free on that disk")
        with new_file(path) as file:
            written = 0
            alignment = _write_header(Path(file.name), architecture, metadata, tensors)
            file.seek(0, 2)
            for tensor in tensors:
                file.write(bytes(-file.tell() % alignment))
                start = file.tell()
                for piece in tensor.pieces():
                    written += file.write(np.frombuffer(piece, np.uint8).data)
                    done(written)
                if file.tell() - start != tensor.n_bytes:
                    raise PyllmError(
                        f"{tensor.name}: expected {tensor.n_bytes} bytes, got {file.tell() - start}"
                    )
            file.write(bytes(-file.tell() % alignment))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PyllmError(f"{path}: no space left on the disk; nothing was left there") from error
        raise PyllmError(f"{path}: {error.strerror or error}") from error


def _write_header(
    path: Path, architecture: str, metadata: Mapping[str, Value], tensors: Sequence[Tensor]
) -> int:
    """Everything before the tensors' data. Returns the alignment."""
    writer = gguf.GGUFWriter(None, architecture)
    if alignment := metadata.get("general.alignment"):
        writer.data_alignment = alignment.value
    for key, value in metadata.items():
        if value.type is GGUFValueType.ARRAY and not len(value.value):
            continue  # says nothing, and many readers trip over it
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value.value, value.type, value.element)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.stored_shape, np.dtype(np.uint8), tensor.n_bytes, tensor.type
        )
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    return int(writer.data_alignment)
