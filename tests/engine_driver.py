"""Runs requests through `_core.Engine` to their ends; a model in Python that shows the engine's mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyllm import _core

VOCAB = 16


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    embedding: npt.NDArray[np.float32] | None = None
    finish_reason: str | None = None
    detail: str = ""
    cached_tokens: int = 0
    prompt_tokens: int = 0


class Driver:
    """Submits, steps and collects what each (request, stream) gets."""

    def __init__(self, engine: _core.Engine) -> None:
        self.engine = engine
        self.answers: dict[tuple[int, int], Answer] = {}
        self._streams: dict[int, int] = {}

    def submit(
        self, id: int, tokens: Sequence[int], *, options: dict[str, Any] | None = None, **params: Any
    ) -> None:
        params = {"temperature": 0.0, "max_tokens": 4} | params
        options = options or {}
        self.engine.submit(id, tokens, _core.SamplingParams(**params), **options)
        alone = {"want_logits", "pooling", "score_from"} & set(options)
        for index in range(1 if alone else params.get("n", 1)):
            self.answers[id, index] = Answer()

    def step(self) -> None:
        for event in self.engine.step(5.0):
            answer = self.answers[event.id, event.index]
            assert answer.finish_reason is None, "an event after the end"
            if event.token is not None:
                answer.tokens.append(event.token)
                answer.logprobs.append((event.logprob, event.top_logprobs))
            if event.logits is not None:
                answer.logits.append(event.logits)
            if event.scores is not None:
                answer.scores += event.scores.tolist()
            if event.embedding is not None:
                answer.embedding = event.embedding
            answer.finish_reason, answer.detail = event.finish_reason, event.detail
            answer.cached_tokens, answer.prompt_tokens = event.cached_tokens, event.prompt_tokens

    def run(self) -> dict[tuple[int, int], Answer]:
        for _ in range(100_000):
            if all(answer.finish_reason for answer in self.answers.values()):
                return self.answers
            self.step()
        raise AssertionError("requests do not end")


class FakeModel:
    """Logits are a hash of the whole history of a row, read back through the block table it is given."""

    def __init__(self, before: Callable[[list[int]], None] | None = None, **sizes: Any) -> None:
        self.kept: dict[tuple[int, int], tuple[int, int]] = {}  # (block, slot): (token, position)
        self.before = before
        self.batches: list[int] = []
        sizes = {"vocab": VOCAB, "context_length": 1024} | sizes
        self.model = _core.testing.fake_model(self.forward, **sizes)

    def forward(
        self,
        tokens: list[int],
        sequences: list[tuple[int, int, int, list[int]]],
        sampled: list[int],
        copies: list[tuple[int, int]],
    ) -> npt.NDArray[np.float32]:
        self.batches.append(len(tokens))
        if self.before:
            self.before(tokens)
        for source, target in copies:
            for slot in range(16):
                if (source, slot) in self.kept:
                    self.kept[target, slot] = self.kept[source, slot]
        for first, rows, past, blocks in sequences:
            for i in range(rows):
                self.kept[blocks[(past + i) // 16], (past + i) % 16] = (tokens[first + i], past + i)
        out = []
        for first, rows, past, blocks in sequences:
            for row in sampled:
                if first <= row < first + rows:
                    history = [self.kept[blocks[p // 16], p % 16] for p in range(past + row - first + 1)]
                    assert [position for _, position in history] == list(range(len(history)))
                    out.append(fake_logits([token for token, _ in history]))
        return np.array(out, np.float32).reshape(len(sampled), VOCAB)


def fake_logits(history: Sequence[int]) -> npt.NDArray[np.float32]:
    digest = hashlib.blake2b(np.array(history, np.int32).tobytes(), digest_size=2 * VOCAB).digest()
    return np.frombuffer(digest, np.uint16).astype(np.float32) / 8192


def fake_greedy(prompt: Sequence[int], count: int) -> list[int]:
    """What FakeModel continues a prompt with."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(fake_logits(history).argmax()))
    return history[len(prompt) :]


def logits_of(engine: _core.Engine, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """[token, vocab] of a prompt, in an engine that has nothing else to do."""
    engine.submit(1, tokens, _core.SamplingParams(), want_logits=True)
    rows = []
    while True:
        for event in engine.step(1.0):
            assert event.finish_reason != "error", event.detail
            if event.logits is not None:
                rows.append(event.logits)
            if event.finish_reason:
                return np.concatenate(rows)
