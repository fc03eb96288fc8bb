"""A stand-in for `_core.Engine` and a tokenizer: threads, stop strings and cancelling are tested alone."""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllm.errors import PyllmError
from pyllm.llm import LLM, Config


@dataclass
class FakeEvent:
    id: int
    index: int = 0
    token: int | None = None
    logprob: float = -0.5
    top_logprobs: list[tuple[int, float]] = field(default_factory=list)
    finish_reason: str | None = None
    detail: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queue_s: float = 0.0
    logits: Any = None


@dataclass
class Running:
    id: int
    prompt: list[int]
    script: list[Any]  # tokens; an Exception ends with an error; None ends the text
    n: int
    max_tokens: int
    done: int = 0


class FakeEngine:
    """Plays `script(prompt)` to each request, one token of each a step."""

    context = 1000

    def __init__(self, script: Callable[[list[int]], Sequence[Any]], pause: float = 0.0) -> None:
        self._script = script
        self._pause = pause
        self._changed = threading.Condition()
        self._running: dict[int, Running] = {}
        self._awake = False
        self.cancelled: list[int] = []
        self.steps = 0
        self.most_at_once = 0
        self.dies: BaseException | None = None

    def submit(self, id: int, tokens: Sequence[int], params: Any, **options: Any) -> None:
        if len(tokens) > self.context:
            raise PyllmError(f"prompt has {len(tokens)} tokens, the context {self.context}")
        script = list(self._script(list(tokens)))
        with self._changed:
            self._running[id] = Running(id, list(tokens), script, params.n, params.max_tokens)
            self._changed.notify()

    def cancel(self, id: int) -> None:
        with self._changed:
            if self._running.pop(id, None):
                self.cancelled.append(id)

    def wake(self) -> None:
        with self._changed:
            self._awake = True
            self._changed.notify()

    def stats(self) -> dict[str, int]:
        names = ("waiting", "blocks_total", "blocks_free", "blocks_cached", "prefix_hit_tokens", "preemptions")
        counts = dict.fromkeys((*names, "tokens_computed"), 0)
        return counts | {"running": len(self._running), "steps": self.steps}

    def idle(self) -> bool:
        return not self._running

    def step(self) -> list[FakeEvent]:
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._awake or self.dies)
            self._awake = False
        time.sleep(self._pause)
        with self._changed:
            if self.dies:
                raise self.dies
            self.steps += 1
            self.most_at_once = max(self.most_at_once, len(self._running))
            return [event for request in list(self._running.values()) for event in self._advance(request)]

    def _advance(self, r: Running) -> list[FakeEvent]:
        item = r.script[r.done] if r.done < len(r.script) else None
        r.done += 1
        fields: dict[str, Any] = {"prompt_tokens": len(r.prompt), "cached_tokens": 1}
        if isinstance(item, Exception):
            fields |= {"finish_reason": "error", "detail": str(item)}
        elif item is None:
            fields |= {"finish_reason": "stop", "token": 0}
        else:
            fields |= {"token": item, "top_logprobs": [(item, -0.5)]}
            if r.done == r.max_tokens:
                fields |= {"finish_reason": "length", "detail": "max_tokens"}
        if "finish_reason" in fields:
            del self._running[r.id]
        return [FakeEvent(r.id, index, **fields) for index in range(r.n)]


class FakeTokenizer:
    """Tokens are bytes."""

    vocab_size = 256

    def encode(self, text: str, add_bos: bool | None = None) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> str:
        return bytes([token]).decode("utf-8", "replace")

    def piece_bytes(self, token: int) -> bytes:
        return bytes([token])

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def special_tokens(self) -> FakeSpecialTokens:
        return FakeSpecialTokens()

    def detokenizer(self, visible: tuple[int, ...] = ()) -> FakeDetokenizer:
        return FakeDetokenizer()


class FakeSpecialTokens:
    """There are none."""

    def split(self, segments: Sequence[tuple[str, bool]]) -> list[int | str]:
        return [text for text, _ in segments]


class FakeDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def fake_llm(engine: FakeEngine) -> LLM:
    llm: Any = LLM.__new__(LLM)
    llm._own(engine, FakeTokenizer(), file=None, config=Config("fake", 1000, 256, 1, 1, 1), load_s=0.25)
    return llm
