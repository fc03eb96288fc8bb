"""A pruned model on its way: what is kept of each tensor of another, and what its metadata will say.

A draft is a pyllm.weights.Source, so that it is written as any model is: tensor by tensor, slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value
from pyllm.mixes import fitting
from pyllm.prune.shape import shape_of
from pyllm.quantize.plan import NUMBERS, Planned
from pyllm.weights import Source, SourceTensor

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
SLICE = 1 << 20  # weights looked at at once


@dataclass
class Edit:
    """What becomes of a tensor. rows, columns: indices that are kept, ascending; None: all.

    factor: multiplies every weight. zeros: what becomes of some of its rows, [row, kept column], in place.
    """

    tensor: SourceTensor
    name: str
    rows: Indices | None = None
    columns: Indices | None = None
    factor: float = 1.0
    zeros: Callable[[Floats], None] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.tensor.shape)
        if self.columns is not None:
            shape[-1] = len(self.columns)
        if self.rows is not None:
            shape[-2] = len(self.rows)
        return tuple(shape)

    @property
    def block(self) -> int:
        return int(GGML_QUANT_SIZES[GGMLQuantizationType[self.tensor.type]][0])

    @property
    def blocks(self) -> Indices | None:
        """The kept columns as whole blocks of the tensor's type, where they are whole ones."""
        if self.columns is None:
            return None
        first = self.columns[:: self.block]
        whole = (first[:, None] + np.arange(self.block)).reshape(-1)
        if np.any(first % self.block) or not np.array_equal(whole, self.columns):
            return None
        return first // self.block

    @property
    def rewritten(self) -> bool:
        """Whether its weights take other bytes than before; otherwise rows and blocks are copied."""
        torn = self.columns is not None and self.blocks is None
        return torn or self.factor != 1 or self.zeros is not None


class Draft:
    """The model in `source`, until something is taken out of it. notes: what the user should know."""

    def __init__(self, source: Source) -> None:
        if not source.tensors:
            raise PyllmError(f"{source.paths[0]}: the file has no tensors")
        self._source = source
        self._metadata = dict(source.metadata())
        self.before = self.shape = shape_of(source, self._metadata)
        self.notes = list(source.notes)
        self._edits = {t.name: Edit(t, t.name) for t in source.tensors}
        self._check_shapes()

    # -- changes -----------------------------------------------------------------------------------------------

    def edit(self, name: str) -> Edit:
        return self._edits[name]

    def by_name(self, name: str) -> Edit:
        """Of the tensor that will have this name."""
        return next(e for e in self._edits.values() if e.name == name)

    def has(self, name: str) -> bool:
        return name in self._edits

    def keep_rows(self, stem: str, rows: Indices) -> None:
        """Of a matrix and its bias, where it has one."""
        self._edits[f"{stem}.weight"].rows = rows
        if bias := self._edits.get(f"{stem}.bias"):
            bias.columns = rows

    def drop(self, name: str) -> None:
        del self._edits[name]

    def set(self, name: str, value: Any, kind: GGUFValueType = GGUFValueType.UINT32) -> None:
        """A key of the architecture."""
        key = self.shape.key(name)
        old = self._metadata.get(key)
        if old is not None and old.type is not GGUFValueType.ARRAY:
            kind = old.type
        self._metadata[key] = Value(value, kind)

    @property
    def values(self) -> dict[str, Value]:
        """The metadata, to be changed."""
        return self._metadata

    # -- a Source ----------------------------------------------------------------------------------------------

    @property
    def paths(self) -> Sequence[str]:
        return self._source.paths

    @property
    def n_bytes(self) -> int:
        return self._source.n_bytes

    @property
    def tensors(self) -> list[SourceTensor]:
        return [
            SourceTensor(e.name, "F32" if e.rewritten else e.tensor.type, e.shape) for e in self._edits.values()
        ]

    def metadata(self) -> dict[str, Value]:
        return self._metadata

    def rows(self, name: str, first: int, count: int) -> NDArray[np.uint8]:
        edit = self.by_name(name)
        index = np.arange(first, first + count) if edit.rows is None else edit.rows[first : first + count]
        data, weights = self._read(edit.tensor, index)
        if weights is None:
            return data
        if not edit.rewritten:
            if edit.blocks is None:
                return data
            by_block = data.reshape(len(index), edit.tensor.shape[-1] // edit.block, -1)
            return np.ascontiguousarray(by_block[:, edit.blocks]).reshape(len(index), -1)
        if edit.columns is not None:
            weights = np.ascontiguousarray(weights[:, edit.columns])
        weights *= np.float32(edit.factor)
        if edit.zeros is not None:
            edit.zeros(weights)
        return weights.view(np.uint8)

    # -- what is measured on the way ---------------------------------------------------------------------------

    def weights(self, name: str) -> Iterator[Floats]:
        """A tensor of the source slice by slice, [row, column]. PyllmError where one is NaN or infinite."""
        tensor = self._edits[name].tensor
        rows, step = tensor.shape[-2], max(1, SLICE // tensor.shape[-1])
        for first in range(0, rows, step):
            _, weights = self._read(tensor, np.arange(first, min(first + step, rows)))
            if weights is None:
                raise PyllmError(f"{name}: {tensor.type} is not a type of weights")
            yield weights

    def plan(self) -> list[Planned]:
        """What types the tensors are written in: their own, where that can be."""
        return [self._planned(edit) for edit in self._edits.values()]

    def importance(self, importance: Mapping[str, Floats]) -> dict[str, Floats]:
        """Importance of the source's columns as that of the columns that are kept."""
        found = {}
        for edit in self._edits.values():
            weights = importance.get(edit.tensor.name)
            if weights is not None and len(weights) == edit.tensor.shape[-1]:
                found[edit.name] = weights if edit.columns is None else weights[edit.columns]
        return found

    # -- inside ------------------------------------------------------------------------------------------------

    def _read(self, tensor: SourceTensor, index: Indices) -> tuple[NDArray[np.uint8], Floats | None]:
        """The bytes of these rows and what they mean; None for what is no weight."""
        low, high = int(index.min()), int(index.max()) + 1
        data = self._source.rows(tensor.name, low, high - low)
        if len(index) != high - low:
            data = data[index - low]
        if tensor.type not in _core.quant_types():
            return data, None
        columns = tensor.shape[-1]
        weights = _core.dequantize(tensor.type, np.ascontiguousarray(data), len(index) * columns)
        weights = weights.reshape(len(index), columns)
        if not np.isfinite(weights).all():
            row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(weights)))
            raise PyllmError(
                f"{tensor.name}: the weight in row {int(index[row])}, column {column} is "
                f"{weights[row, column]}: the file may be damaged"
            )
        return data, weights

    def _planned(self, edit: Edit) -> Planned:
        kind, columns = edit.tensor.type, edit.shape[-1]
        if not edit.rewritten:
            return Planned(edit.name, edit.shape, kind, kind, kind)
        wanted = kind if kind in _core.written_types() else "Q8_0"
        if edit.zeros is not None and wanted not in HOLD_ZERO:
            wanted = "Q8_0"
        fits = fitting(wanted, columns).name
        return Planned(edit.name, edit.shape, "F32", wanted if wanted in NUMBERS else fits, kind)

    def _check_shapes(self) -> None:
        """That the tensors to be cut are what the metadata says; others are copied as they are."""
        s = self.shape
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        for name in ("token_embd", "output"):
            self._check(name, (s.vocab, s.dim), may_miss=name == "output")
        inner = {"attn_q": q, "attn_k": kv, "attn_v": kv, "ffn_gate": s.ffn, "ffn_up": s.ffn}
        for layer in range(s.layers):
            block = f"blk.{layer}."
            for part, rows in inner.items():
                self._check(block + part, (rows, s.dim))
            self._check(block + "attn_output", (s.dim, q))
            self._check(block + "ffn_down", (s.dim, s.ffn))

    def _check(self, stem: str, shape: tuple[int, int], may_miss: bool = False) -> None:
        """Of a matrix and its bias, which may always miss."""
        for name, expected in ((f"{stem}.weight", shape), (f"{stem}.bias", shape[:1])):
            found = self._edits.get(name)
            if found is None:
                if len(expected) == 2 and not may_miss:
                    raise PyllmError(f"{name}: not in {self.paths[0]}")
            elif found.tensor.shape != expected:
                raise PyllmError(
                    f"{name}: expected {list(expected)} from the metadata, the file has "
                    f"{list(found.tensor.shape)}"
                )


# Types in which a weight of 0 stays exactly that.
HOLD_ZERO = (*NUMBERS, "Q8_0", "Q6_K", "Q5_0", "Q4_0", "Q3_K", "TQ1_0", "TQ2_0", "MXFP4")
