"""What answers: a model in this process or a server. The rest of chat knows only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pyllm.completion import Logprob, Timings, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from pyllm.constraint import Constraint
    from pyllm.sampling import SamplingParams

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """What the model will read. tokens: [] where the server does not tell."""

    messages: Messages
    tokens: list[int]
    arguments: Mapping[str, Any]
    seconds: float  # that template and tokenizer took

    @property
    def known(self) -> bool:
        return bool(self.tokens)


@dataclass(frozen=True)
class Done:
    """How an answer ended. finish: "stop", "length" or what a server says; token_ids: its own, where known."""

    finish: str
    detail: str
    usage: Usage
    timings: Timings | None = None
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """What came of one answer."""

    answer: int
    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    logprobs: tuple[Logprob, ...] = ()
    done: Done | None = None


class Stream(Protocol):
    """Answers as they come."""

    def next(self, timeout: float) -> list[Part]:
        """What came within `timeout` seconds; nothing may have. PyllmError when it failed."""
        ...

    def close(self) -> None:
        """Ends what still runs."""
        ...


class Engine(Protocol):
    """name: of the model. context: tokens that a conversation may have; 0: unknown. thinks: the model reasons
    before it answers. note: what the user should know of it. kv_bytes_per_token: of keys and values that can be
    kept; 0: none can."""

    name: str
    context: int
    thinks: bool
    note: str
    kv_bytes_per_token: int

    def prompt(self, messages: Messages, think: bool = True) -> Prompt:
        """`think`: False asks the model not to reason. PyllmError for what the template refuses."""
        ...

    def count(self, text: str) -> int | None:
        """Tokens of a text; None when nobody can tell."""
        ...

    def check(self, constraint: Constraint) -> None:
        """PyllmError when no answer can be made to keep it, as far as that is known before."""
        ...

    def start(self, prompt: Prompt, params: SamplingParams, chosen: Set[str] = frozenset()) -> Stream:
        """Begins params.n answers; chosen: the fields of params that the user wants so.

        PyllmError when they can never come."""
        ...

    def warm(self, messages: Messages) -> None:
        """Reads a conversation ahead, where that can be done, until an answer is asked for."""
        ...

    def save_kv(self, tokens: Sequence[int], path: Path, stop: Callable[[], None]) -> int:
        """As LLM.save_kv."""
        ...

    def load_kv(self, path: Path) -> list[int]:
        """As LLM.load_kv."""
        ...

    def token(self, id: int) -> str | None:
        """A token's text, where known."""
        ...

    def stats(self) -> Mapping[str, int]:
        """The engine's counters, where known."""
        ...

    def close(self) -> None: ...
