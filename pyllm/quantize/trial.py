"""Weights of single tensors in other types, in memory: what a search tries before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.quantize.plan import Planned
from pyllm.quantize.quantize import Importance, Job
from pyllm.weights import Source

SAMPLED_ROWS = 128  # of each matrix, to estimate an error from


class Tensors:
    """The tensors of a model on their way into types. importance: how much squared errors count."""

    def __init__(self, source: Source, importance: Importance, threads: int = 0, repair: bool = False) -> None:
        self._source, self._importance = source, importance
        self._threads, self._repair = threads, repair
        self._made: dict[str, tuple[str, NDArray[np.uint8]]] = {}  # the last candidate's

    def candidate(
        self, plan: Sequence[Planned], types: Mapping[str, str]
    ) -> dict[str, tuple[str, NDArray[np.uint8]]]:
        """Type and bytes of the tensors of `types` that change; what the last candidate had is not made again.
        PyllmError for weights that are not finite."""
        made = {}
        for planned in plan:
            kind = types.get(planned.name, planned.source)
            if kind != planned.source:
                before = self._made.get(planned.name)
                made[planned.name] = (
                    before if before and before[0] == kind else (kind, self.as_type(planned, kind))
                )
        self._made = made
        return made

    def as_type(self, planned: Planned, kind: str) -> NDArray[np.uint8]:
        """All of a tensor's bytes as another type."""
        changed = Planned(planned.name, planned.shape, planned.source, kind, kind)
        importance = self._importance.get(planned.name)
        job = Job(self._source, changed, importance, self._threads, self._repair)
        return np.concatenate([np.asarray(piece).reshape(-1) for piece in job.pieces()])

    def errors(self, planned: Planned, kinds: Sequence[str]) -> dict[str, float]:
        """Of each type, the squared error of the tensor's product with its inputs, by the importance of its
        columns, estimated from some of its rows."""
        rows = planned.weights // planned.columns
        chosen = np.unique(np.linspace(0, rows - 1, min(rows, SAMPLED_ROWS)).astype(int))
        data = np.concatenate([self._source.rows(planned.name, int(row), 1) for row in chosen])
        data = _core.quantize("F32", planned.source, data, planned.columns, None, self._repair, self._threads)
        x = data.view(np.float32).reshape(-1, planned.columns).astype(np.float64)
        importance = self._importance.get(planned.name)
        # Experts are judged by the mean of their importances.
        columns = np.ones(planned.columns, np.float32)
        if importance is not None:
            columns = importance.reshape(-1, planned.columns).mean(axis=0).astype(np.float32)
        scale = rows / len(chosen) * columns
        found = {}
        for kind in kinds:
            packed = _core.quantize(kind, "F32", data, planned.columns, columns, False, self._threads)
            y = _core.dequantize(kind, packed, x.size).reshape(x.shape)
            found[kind] = float((np.square(x - y) * scale).sum())
        return found
