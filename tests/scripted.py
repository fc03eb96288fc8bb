"""A server whose model plays a script: what it answers is known, so that what becomes of it can be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fake_engine import FakeEngine, fake_llm
from serving import Serving, serving

from pyllm.llm import LLM


class FakeTemplate:
    """Writes messages and tools as JSON, so that the script, and the test, can see them."""

    source = "<tool_call> <think> </think> enable_thinking"
    stop = ()
    takes_tools = True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def encode(self, messages: Sequence[Any], tools: Any = None, **arguments: Any) -> list[int]:
        self.seen.append((list(messages), tools, arguments))
        return list(f"{len(messages)} messages:".encode())


@contextmanager
def scripted(answer: Callable[[], str], pause: float = 0.0) -> Iterator[tuple[Serving, FakeTemplate]]:
    template = FakeTemplate()

    def load() -> LLM:
        llm = fake_llm(FakeEngine(lambda prompt: answer().encode(), pause))
        llm._template = template  # type: ignore[assignment]
        return llm

    with serving(load) as server:
        yield server, template
