"""Quantizing a GGUF file: slice by slice, from mapped pages to the new file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.convert.folder import FolderSource
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Tensor, Value, write_gguf
from pyllm.mixes import Mix, mix_named
from pyllm.progress import default_progress
from pyllm.quantize.importance import check_importance
from pyllm.quantize.plan import NUMBERS, Override, Planned, make_plan
from pyllm.weights import GgufSource, Source

if TYPE_CHECKING:
    from pyllm.progress import Progress

SLICE = 1 << 22  # weights quantized at once
QUANTIZATION_VERSION = 2  # of the layouts, as ggml counts them

_OF_QUANTIZING = ("quantize.", "pyllm.quantize.")  # metadata that tells of the input's own quantization

Importance = Mapping[str, NDArray[np.float32]]  # tensor name -> [columns], or [expert * columns] of experts


@dataclass(frozen=True)
class Quantized:
    """What was done, as a whole and tensor by tensor. notes: what the user should know."""

    plan: Sequence[Planned]
    bytes_before: int
    bytes_after: int
    notes: Sequence[str]

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(t.bytes_as(t.type) for t in self.plan) / sum(t.weights for t in self.plan)


def quantize(
    path: Path,
    target: Path,
    mix: str,
    *,
    overrides: Sequence[Override] = (),
    pure: bool = False,
    importance: Importance | None = None,
    threads: int = 0,
    repair: bool = False,
    progress: Progress | None = None,
    more_metadata: Mapping[str, Value] | None = None,
) -> Quantized:
    """Writes the model in `path` to `target` with the types of a mix such as q4_k_m (pyllm.mixes.MIXES).

    path: a GGUF file or a Hugging Face folder.
    overrides: the first whose pattern is in a matrix's name decides its type. pure: the mix's main type for
    every matrix. importance: how much a squared error counts. repair: NaN and infinite weights become 0.
    more_metadata: beside what the input has.
    `target` gets its name only when it is whole. PyllmError for a bad file, weights that are not finite, types
    that do not fit, a full disk, and a target that is the source.
    """
    chosen = mix_named(mix)
    source: Source = FolderSource(path) if path.is_dir() else GgufSource(path)
    if not source.tensors:
        raise PyllmError(f"{path}: the file has no tensors")
    check_target(target, source.paths)
    metadata = {key: value for key, value in source.metadata().items() if not key.startswith(_OF_QUANTIZING)}
    plan = make_plan(source, metadata, chosen, overrides, pure, importance is not None)
    metadata["general.file_type"] = Value(int(chosen.file_type), GGUFValueType.UINT32)
    metadata["general.quantization_version"] = Value(QUANTIZATION_VERSION, GGUFValueType.UINT32)
    metadata |= more_metadata or {}

    notes = [*source.notes, *notes_on(plan, chosen, importance)]
    if importance is not None:
        notes += check_importance(importance, plan)

    write_planned(source, target, metadata, plan, importance, threads, repair, progress)
    return Quantized(plan, source.n_bytes, target.stat().st_size, notes)


def write_planned(
    source: Source,
    target: Path,
    metadata: Mapping[str, Value],
    plan: Sequence[Planned],
    importance: Importance | None = None,
    threads: int = 0,
    repair: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes a source's tensors in their planned types. `target` gets its name only when it is whole."""

    def tensor(planned: Planned) -> Tensor:
        weights = None if importance is None else importance.get(planned.name)
        job = Job(source, planned, weights, threads, repair)
        return Tensor(planned.name, planned.shape, GGMLQuantizationType[planned.type], job.pieces)

    show = progress or default_progress()
    total = sum(t.bytes_as(t.type) for t in plan)
    show.start(f"writing {target.name}", total)
    try:
        architecture = str(metadata["general.architecture"].value)
        write_gguf(target, architecture, metadata, [tensor(t) for t in plan], show.update)
    finally:
        show.close()


def check_target(target: Path, sources: Sequence[str]) -> None:
    """PyllmError unless a file can be written there without harm to the sources."""
    if target.is_dir():
        raise PyllmError(f"{target}: is a folder; expected the name of the file to write")
    if not target.parent.is_dir():
        raise PyllmError(f"{target}: there is no folder {target.parent}")
    if target.exists() and any(os.path.samefile(target, source) for source in sources):
        raise PyllmError(f"{target}: is the input itself; write to another name")


@dataclass(frozen=True)
class Job:
    """One tensor on its way."""

    source: Source
    planned: Planned
    importance: NDArray[np.float32] | None
    threads: int
    repair: bool

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Its bytes in its new type. Slices end where a matrix does: experts have their own importance."""
        planned, columns = self.planned, self.planned.columns
        rows = planned.shape[-2] if len(planned.shape) > 1 else 1
        step = max(1, SLICE // columns)
        for matrix in range(planned.weights // columns // rows):
            for first in range(matrix * rows, (matrix + 1) * rows, step):
                count = min(step, (matrix + 1) * rows - first)
                yield self._slice(self.source.rows(planned.name, first, count), matrix, first)

    def _slice(self, data: NDArray[np.uint8], matrix: int, first_row: int) -> NDArray[np.uint8]:
        planned = self.planned
        if planned.source not in _core.quant_types():
            return data  # tables of integers and the like
        kinds = planned.source, data, planned.columns
        try:
            if planned.type != planned.source:
                return _core.quantize(
                    planned.type, *kinds, self._importance_of(matrix), self.repair, self.threads
                )
            try:
                _core.quantize("F32", *kinds, threads=self.threads)  # only to see that all are finite
                return data
            except PyllmError:
                if not self.repair:
                    raise
                return _core.quantize(planned.type, *kinds, repair=True, threads=self.threads)
        except PyllmError as error:
            weights = _core.dequantize(planned.source, data, data.shape[0] * planned.columns)
            bad = np.flatnonzero(~np.isfinite(weights))
            if not len(bad):
                raise PyllmError(f"{planned.name}: {error}") from error
            row, column = divmod(int(bad[0]), planned.columns)
            raise PyllmError(
                f"{planned.name}: the weight in row {first_row + row}, column {column} is {weights[bad[0]]}: "
                "the file may be damaged; --repair makes such weights 0"
            ) from error

    def _importance_of(self, matrix: int) -> NDArray[np.float32] | None:
        if self.importance is None:
            return None
        columns = self.planned.columns
        if len(self.importance) == columns:
            return self.importance
        return self.importance[matrix * columns : (matrix + 1) * columns]


def notes_on(plan: Sequence[Planned], mix: Mix, importance: Importance | None) -> list[str]:
    """What may surprise in a result."""
    notes = []
    again = sorted({t.source for t in plan if t.type not in (*NUMBERS, t.source) and t.source not in NUMBERS})
    if again:
        notes.append(f"the input is quantized already ({', '.join(again)}): its loss and the new one add up")
    narrow = [t for t in plan if t.type != t.wanted]
    if narrow:
        kinds = ", ".join(sorted({f"{t.type} for {t.wanted}" for t in narrow}))
        notes.append(f"{len(narrow)} matrices have rows that the type's blocks do not divide: {kinds}")
    if importance is None and mix.base.startswith(("IQ1", "IQ2", "IQ3_XXS")):
        notes.append(f"{mix.base} without an importance matrix loses much")
    return notes


def count_types(plan: Sequence[Planned]) -> dict[tuple[str, str], list[Planned]]:
    """The tensors by (type before, type after), largest groups first."""
    groups: dict[tuple[str, str], list[Planned]] = {}
    for planned in plan:
        groups.setdefault((planned.source, planned.type), []).append(planned)
    weight: Callable[[list[Planned]], int] = lambda group: -sum(t.weights for t in group)  # noqa: E731
    return dict(sorted(groups.items(), key=lambda item: weight(item[1])))
