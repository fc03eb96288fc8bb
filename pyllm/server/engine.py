"""Between the engine's thread and the event loop's tasks: one wake-up of the loop per step, not per token."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyllm.completion import Piece
from pyllm.engine_thread import EngineEndedError
from pyllm.errors import PyllmError
from pyllm.generation import Generation
from pyllm.server.errors import ApiError, ClientLeftError, internal, not_ready

if TYPE_CHECKING:
    from pyllm.engine_thread import Mail
    from pyllm.generation import Request, Work
    from pyllm.llm import LLM

_T = TypeVar("_T")  # a Piece, or an Embedding


class Answers(Generic[_T]):
    """What one HTTP request waits for: the pieces of all its jobs as they come. For one task."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._requests: list[Request[_T]] = []
        self._ids: set[int] = set()  # of those that go on
        self._pieces: list[tuple[int, _T]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._patient = False  # waits for all of it
        self.direct: Callable[[list[tuple[int, _T]]], bool] | None = None  # takes pieces while next() waits
        self.started = time.perf_counter()
        self.first = self.last = 0.0  # when the first and the last piece came
        self.cached_tokens = 0  # of the first job's prompt, known when a piece has come

    async def next(self) -> list[tuple[int, _T]]:
        """(which job, piece) of what has come, waiting for at least one; none when all answers have ended.

        ApiError when the request failed, ClientLeftError when nobody waits any more.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if not self._ids:
                return []
            self._waiter = self._engine.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        pieces, self._pieces = self._pieces, []
        return pieces

    async def rest(self) -> list[tuple[int, _T]]:
        """As next(), all that is still to come at once: nobody is woken up for a token."""
        pieces: list[tuple[int, _T]] = []
        self._patient = True
        while more := await self.next():
            pieces += more
        return pieces

    def cut(self, job: int, answer: int) -> None:
        """What has come of one answer is all of it; its last piece follows with the next step."""
        request = self._requests[job]
        if isinstance(request, Generation):
            request.cut(answer)

    def fail(self, error: Exception) -> None:
        """Ends everything that still runs; next() raises."""
        self.close()
        self._error = self._error or error
        self._pieces.clear()
        self._wake()

    def leave(self) -> None:
        """The client has gone."""
        self.fail(ClientLeftError())

    def close(self) -> None:
        """Cancels what still runs."""
        for id in self._ids:
            self._engine.forget(id)
        self._ids.clear()

    def add(self, request: Request[_T]) -> None:
        self._requests.append(request)
        self._ids.add(request.id)

    @property
    def generated(self) -> int:
        """Tokens so far, whether or not anybody has got them."""
        return sum(request.generated for request in self._requests)

    def end(self, id: int) -> None:
        self._ids.discard(id)

    def push(self, job: int, piece: _T) -> None:
        self._pieces.append((job, piece))

    def pass_on(self) -> None:
        """All of a step has been pushed."""
        if not self._ids:
            self._wake()
        elif self._pieces and self._waiter is not None and not self._patient:
            if self.direct is not None and self.direct(self._pieces):
                self._pieces = []
            else:
                self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncEngine:
    """An LLM for the tasks of one event loop. All methods but put() belong to the loop's thread."""

    def __init__(
        self, llm: LLM, loop: asyncio.AbstractEventLoop, gap: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """gap: told the seconds between the pieces of an answer."""
        self.llm = llm
        self.loop = loop
        self._gap = gap
        self._running: dict[int, tuple[int, Request[Any], Answers[Any]]] = {}

    def start(self, jobs: Sequence[Work[_T]], *, priority: int = 0, cache_salt: str = "") -> Answers[_T]:
        """Submits all jobs. PyllmError names what can never run; then none of them runs."""
        if self.broken:
            raise not_ready(self.broken)
        answers: Answers[_T] = Answers(self)
        try:
            for number, job in enumerate(jobs):
                request = self.llm.submit(job, self, priority=priority, cache_salt=cache_salt)
                self._running[request.id] = number, request, answers
                answers.add(request)
        except EngineEndedError as error:
            answers.close()
            raise not_ready(str(error)) from error
        except BaseException:
            answers.close()
            raise
        return answers

    @property
    def broken(self) -> str:
        """Why the engine has ended; "" while it runs."""
        return self.llm.ended

    @property
    def running(self) -> int:
        """The engine's requests that have not ended."""
        return len(self._running)

    def forget(self, id: int) -> None:
        """Cancels one of the engine's requests."""
        if (entry := self._running.pop(id, None)) is not None:
            self.llm.cancel(entry[1])

    def fail_all(self, error: Exception) -> None:
        """Every request that waits fails with `error`."""
        for answers in {id(entry[2]): entry[2] for entry in self._running.values()}.values():
            answers.fail(error)

    def put(self, mail: Mail) -> None:
        """A step's events, from the engine's thread."""
        try:
            self.loop.call_soon_threadsafe(self._deliver, mail)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _deliver(self, mail: Mail) -> None:
        if isinstance(mail, EngineEndedError):
            self.fail_all(not_ready(str(mail)))
            return
        now, events = mail
        touched: dict[Answers[Any], None] = {}  # in their order
        for event in events:
            if (entry := self._running.get(event.id)) is None:
                continue
            number, request, answers = entry
            try:
                piece = request.take(event, now)
            except PyllmError as error:
                # A grammar may show only while it is followed that it cannot be.
                status = 400 if str(error).startswith("constraint: ") else 500
                answers.fail(ApiError(status, str(error), code="generation_failed"))
                continue
            except Exception as error:  # our own mistake: the step's other requests have no part in it
                traceback.print_exc()
                answers.fail(internal(error))
                continue
            if piece is not None:
                if 0 < answers.last < now and isinstance(piece, Piece):
                    self._gap(now - answers.last)
                if not answers.first:
                    answers.first, answers.cached_tokens = now, event.cached_tokens
                answers.last = now
                answers.push(number, piece)
            if request.done:
                self.forget(event.id)
                answers.end(event.id)
            touched[answers] = None
        for answers in touched:
            try:
                answers.pass_on()
            except Exception as error:
                traceback.print_exc()
                answers.fail(internal(error))
