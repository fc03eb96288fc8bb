"""Where parsers write: deltas in their order, whitespace around calls left out."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from pyllm.parsers.delta import CallArguments, CallStart, Content, Delta, Reasoning, joined
from pyllm.parsers.markdown import CodeBlocks


class Writer:
    """new_id: makes ids of calls."""

    def __init__(self, new_id: Callable[[], str] | None = None) -> None:
        self.code = CodeBlocks()
        self.calls = 0
        self._new_id = new_id or call_id
        self._deltas: list[Delta] = []
        self._space: list[str] = []  # whitespace that counts only if content follows
        self._thinking = False
        self._thought_space: list[str] = []

    def content(self, text: str) -> None:
        """Text for the user. Whitespace waits for what follows: before and after calls it means nothing."""
        body = text.rstrip()
        if body:
            self._deltas.append(Content("".join(self._space) + body))
            self._space = []
        if len(body) < len(text):
            self._space.append(text[len(body) :])
        self.code.show(text)

    def reasoning(self, text: str) -> None:
        """Reasoning, without the whitespace that it begins and ends with."""
        if not self._thinking:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            self._deltas.append(Reasoning("".join(self._thought_space) + body))
            self._thinking, self._thought_space = True, []
        if len(body) < len(text):
            self._thought_space.append(text[len(body) :])

    def end_reasoning(self) -> None:
        """More of it, should it come, is a paragraph of its own."""
        self._thought_space = ["\n\n"] if self._thinking or self._thought_space == ["\n\n"] else []
        self._thinking = False

    def start(self, name: str, id: str = "") -> None:
        """A call begins."""
        self._space = []
        self._deltas.append(CallStart(self.calls, id or self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        if text:
            self._deltas.append(CallArguments(self.calls - 1, text))

    def end(self) -> None:
        """Nothing follows."""
        if not self.calls and self._space:
            self._deltas.append(Content("".join(self._space)))
        self._space = []

    def drain(self) -> list[Delta]:
        """What was written since the last time."""
        deltas, self._deltas = self._deltas, []
        return joined(deltas) if len(deltas) > 1 else deltas


def call_id() -> str:
    """As OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


def short_call_id() -> str:
    """Nine letters and digits: Mistral's templates take no others."""
    return secrets.token_hex(5)[:9]
