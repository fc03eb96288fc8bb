"""How far a model with other weights is from the original, without a file of either: for searches.

The original reads the text once; what is kept of it is each scored token's probability and best guess, and
whole distributions of as many tokens as fit in a set amount of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.perplexity import log_softmax

ROWS = 64  # looked at at once: in float64 they are large
ROWS_BYTES = 256 << 20  # of whole distributions of the original

Floats = NDArray[np.float64]

Weights = Mapping[str, tuple[str, NDArray[np.uint8]]]  # by tensor: its type and bytes in place of the file's
Heard = Callable[[], None]  # after each window


@dataclass(frozen=True)
class Loss:
    """Of a model beside the original: relative change of perplexity and its standard error, mean
    Kullback-Leibler divergence in nats, and how often the best token is another one (0 to 1)."""

    perplexity: float
    stderr: float
    kl: float
    top1: float

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity:+.2%} (+- {self.stderr:.2%}), KL divergence {self.kl:.5f}, "
            f"other best token {self.top1:.2%}"
        )


class Judge:
    """Compares with the model in `path`. windows: tokens of each. first: the first position of a window that is
    scored, by its next token."""

    def __init__(
        self,
        path: Path,
        windows: Sequence[Sequence[int]],
        first: int,
        threads: int = 0,
        heard: Heard = lambda: None,
    ) -> None:
        self._path, self._windows, self._first, self._threads = path, windows, first, threads
        self._nats: list[Floats] = []  # of the text's own next tokens, part by part
        self._best: list[NDArray[np.intp]] = []
        self._rows: list[NDArray[np.float32]] = []  # log probabilities [some rows, vocab]
        rows = sum(len(tokens) - 1 - first for tokens in windows)
        for nats, nexts in self._parts({}, precise=True, heard=heard):
            self._every = max(1, math.ceil(4 * nats.shape[1] * rows / ROWS_BYTES))
            self._nats.append(nats[np.arange(len(nats)), nexts])
            self._best.append(nats.argmax(axis=1))
            self._rows.append(nats[:: self._every].astype(np.float32))

    def loss(self, weights: Weights, precise: bool = False, heard: Heard = lambda: None) -> Loss:
        """Of the model with these weights. precise: with activations of 15 bits; otherwise as it is used."""
        worse, divergence, other = [], [], []
        for number, (nats, nexts) in enumerate(self._parts(weights, precise, heard)):
            worse.append(self._nats[number] - nats[np.arange(len(nats)), nexts])
            other.append(self._best[number] != nats.argmax(axis=1))
            truth = self._rows[number].astype(np.float64)
            divergence.append((np.exp(truth) * (truth - nats[:: self._every])).sum(axis=1))
        lost = np.concatenate(worse)
        ratio = math.exp(lost.mean())
        kl, top1 = (float(np.concatenate(values).mean()) for values in (divergence, other))
        return Loss(ratio - 1, ratio * float(lost.std() / math.sqrt(len(lost))), kl, top1)

    def _parts(
        self, weights: Weights, precise: bool, heard: Heard
    ) -> Iterator[tuple[Floats, NDArray[np.intp]]]:
        """Log probabilities [row, vocab] at some scored positions, and the tokens that come next, [row]."""
        file = _core.GgufFile(self._path)
        for name, (kind, data) in weights.items():
            file.replace(name, kind, data)
        model = _core.Model(file, threads=self._threads, precise=precise)
        context = max(map(len, self._windows))
        engine = _core.Engine(model, context=context, prefix_cache=False, max_sequences=1)
        for number, tokens in enumerate(self._windows):
            position, last = 0, len(tokens) - 1
            for logits in _logits(engine, number, list(tokens)):
                begin, end = max(0, self._first - position), min(len(logits), last - position)
                for i in range(begin, end, ROWS):
                    nats = log_softmax(logits[i : min(i + ROWS, end)])
                    nexts = tokens[position + i + 1 : position + i + 1 + len(nats)]
                    yield nats, np.asarray(nexts, np.intp)
                position += len(logits)
            heard()


def _logits(engine: _core.Engine, id: int, tokens: list[int]) -> Iterator[NDArray[np.float32]]:
    """Of one window, some rows at a time."""
    engine.submit(id, tokens, _core.SamplingParams(), want_logits=True)
    while True:
        for event in engine.step(None):
            if event.finish_reason == "error":
                raise PyllmError(event.detail)
            if event.logits is not None:
                yield event.logits
            if event.finish_reason:
                return
