"""One request as it grows: the engine's events in, pieces of its answers out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pyllm.answer import Answer
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm import _core
    from pyllm.completion import Piece
    from pyllm.sampling import SamplingParams
    from pyllm.tokenizer import Tokenizer


_T_co = TypeVar("_T_co", covariant=True)


class Request(Protocol[_T_co]):
    """What the engine works on, under its `id`."""

    id: int

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        ...

    @property
    def generated(self) -> int:
        """Tokens of its answers so far, those that were cut off too."""
        ...

    def take(self, event: _core.Event, now: float) -> _T_co | None:
        """What the request's next event gives, if anything. PyllmError when the request failed."""
        ...


class Work(Protocol[_T_co]):
    """What can be asked of the engine. `wants`: options of its submit beside the tokens and `core`."""

    @property
    def tokens(self) -> list[int]: ...

    @property
    def core(self) -> _core.SamplingParams: ...

    @property
    def wants(self) -> dict[str, Any]: ...

    def begin(self, id: int, tokenizer: Tokenizer, started: float, load_s: float) -> Request[_T_co]: ...


@dataclass(frozen=True)
class Job:
    """A prompt made ready for the engine."""

    tokens: list[int]
    params: SamplingParams
    core: _core.SamplingParams
    constraint: list[Any] = field(default_factory=list)  # states for the engine's masks, one an answer

    @property
    def wants(self) -> dict[str, Any]:
        return {"constraint": self.constraint}

    def begin(self, id: int, tokenizer: Tokenizer, started: float, load_s: float) -> Generation:
        return Generation(id, self, tokenizer, started, load_s)


class Generation:
    """The params.n answers to one job. `id`: of the engine's request. `started`: when it was asked for, in
    time.perf_counter() seconds."""

    def __init__(self, id: int, job: Job, tokenizer: Tokenizer, started: float, load_s: float) -> None:
        self.id = id
        self._ended = 0  # tokens of answers that have ended
        self._open = {
            index: Answer(job.params, tokenizer, index, len(job.tokens), started, load_s)
            for index in range(job.params.n)
        }

    @property
    def done(self) -> bool:
        """Whether all answers have ended. The engine may not know: a stop string ends an answer here."""
        return not self._open

    @property
    def generated(self) -> int:
        return self._ended + sum(answer.tokens for answer in self._open.values())

    def cut(self, index: int) -> None:
        """One answer goes no further."""
        if (answer := self._open.get(index)) is not None:
            answer.cut()

    def take(self, event: _core.Event, now: float) -> Piece | None:
        """The piece that the request's next event gives, if any. PyllmError when the request failed."""
        answer = self._open.get(event.index)
        if answer is None:
            return None  # of an answer that a stop string has ended
        if event.finish_reason == "error":
            raise PyllmError(event.detail)
        piece = answer.add(event, now)
        if answer.completion is not None:
            self._ended += answer.tokens
            del self._open[event.index]
        return piece
