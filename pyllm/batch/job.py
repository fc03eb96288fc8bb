"""Runs a job: reads ahead, keeps the engine full, writes what has finished, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pyllm.batch.answers import answer_line, error_line, tokens_of
from pyllm.batch.done import DoneRows
from pyllm.batch.forms import Forms
from pyllm.batch.output import Output, StreamOutput
from pyllm.batch.row import Record, Row, RowError
from pyllm.batch.source import Source, beyond_the_end
from pyllm.batch.window import Ready, Window
from pyllm.batch.writer import Writer
from pyllm.errors import PyllmError

_T = TypeVar("_T")
_TICK_S = 0.05  # for what nothing wakes us


class Answerer(Protocol):
    """What answers rows. prepare() is called on a thread of its own."""

    def prepare(self, row: Row) -> Ready: ...

    async def answer(self, ready: Ready) -> dict[str, Any]:
        """The endpoint's document. RowError when the row fails, PyllmError when no row can be answered."""
        ...


@dataclass
class Counts:
    """How far a job is. rows: finished in this run; skipped: in runs before. size: bytes of their input.
    running: being answered; computed: tokens of prompts and answers by now, where somebody counts them."""

    rows: int = 0
    running: int = 0
    computed: int = 0
    failed: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    size: int = 0
    skipped_size: int = 0
    seconds: float = 0.0
    finished: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Plan:
    """What to do. records: begins to read the input, from the start. slots: how many answers may be asked for
    at once, now. job: names the rows. errors: where rows that failed go, None: to the output."""

    records: Callable[[], Iterator[Record]]
    forms: Forms
    output: Output | StreamOutput
    job: str
    errors: Output | None = None
    ordered: bool = False
    slots: Callable[[], int] = lambda: 64


class Job:
    """One run over a plan. done: the rows that its files have already, see recovered()."""

    def __init__(
        self, plan: Plan, done: DoneRows, answerer: Answerer, progress: Callable[[Counts], None] | None = None
    ) -> None:
        self._plan = plan
        self._done = done
        self._answerer = answerer
        self._progress = progress or (lambda counts: None)
        self._window = Window()
        self._writer = Writer(plan.output, plan.errors, plan.ordered)
        self._running: set[asyncio.Task[None]] = set()
        self._used = 0  # slots
        self._changed = asyncio.Event()
        self._deadline: float | None = None  # after which nothing runs on; set: no row starts any more
        self._fatal: BaseException | None = None
        self._started = time.monotonic()
        self.counts = Counts()

    def stop(self, within_s: float) -> None:
        """Starts no further row, and lets the running ones finish within the time."""
        deadline = time.monotonic() + within_s
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self._changed.set()

    def fail(self, error: PyllmError) -> None:
        """Ends the job: run() raises `error` when what has finished is written."""
        self._fatal = self._fatal or error
        self._changed.set()

    @property
    def stopped(self) -> bool:
        return self._deadline is not None

    async def run(self) -> Counts:
        """Counts.finished tells whether all rows are done. PyllmError when the job cannot go on; what has
        finished is written even then."""
        source = Source(self._plan.records(), self._plan.forms, self._done, self._answerer.prepare)
        await self._run(source)
        if self._window.ended and source.last < self._done.last:
            raise beyond_the_end(self._done, source.last)
        return self.counts

    async def _run(self, source: Source) -> None:
        writing = asyncio.ensure_future(self._writer.run(self._report))
        reading = asyncio.ensure_future(self._read(source))
        for task in (writing, reading):
            task.add_done_callback(self._helper_ended)
        try:
            while not self._complete():
                self._changed.clear()
                self._start_rows()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _TICK_S)
        finally:
            reading.cancel()
            for task in self._running:
                task.cancel()
            await asyncio.gather(reading, *self._running, return_exceptions=True)
            self._writer.close()
            await asyncio.wait([writing])
            self._report()
        if self._fatal is not None:
            raise self._fatal
        if not writing.cancelled() and (error := writing.exception()):
            raise error
        self.counts.finished = self._window.ended and not self._window and not self.stopped

    def _complete(self) -> bool:
        if self._fatal is not None:
            return True
        if self._deadline is not None:
            return not self._running or time.monotonic() >= self._deadline
        return self._window.ended and not self._window and not self._running

    def _start_rows(self) -> None:
        slots = self._plan.slots()
        while self._used < slots and not self.stopped and not self._writer.full:
            ready = self._window.take()
            if ready is None:
                return
            self._used += ready.answers
            task = asyncio.ensure_future(self._answer(ready))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _read(self, source: Source) -> None:
        while not self.stopped:
            if self._window.full or self._writer.far_ahead or self._writer.full:
                await asyncio.sleep(_TICK_S / 5)
                continue
            group = await _in_daemon(source.next)
            self.counts.skipped, self.counts.skipped_size = source.skipped, source.skipped_bytes
            if not group:
                self._window.ended = True
                self._changed.set()
                return
            for item in group:
                row = item.row if isinstance(item, Ready) else item
                self._writer.expect(row.number)
                if isinstance(item, Ready):
                    self._window.add(item)
                else:
                    self._finish(row, item.error)
            self._changed.set()

    async def _answer(self, ready: Ready) -> None:
        row = ready.row
        try:
            document = await self._answerer.answer(ready)
        except RowError as error:
            self._finish(row, error)
        except PyllmError as error:
            self.fail(error)
        except Exception as error:
            told = f"row {row.number}: {type(error).__name__}: {error}"
            self._finish(row, RowError("internal_error", told, 500))
        else:
            self._finish(row, None, document)
        finally:
            self._used -= ready.answers
            self._changed.set()

    def _finish(self, row: Row, error: RowError | None, document: dict[str, Any] | None = None) -> None:
        if document is not None:
            prompt, completion = tokens_of(document)
            self.counts.prompt_tokens += prompt
            self.counts.completion_tokens += completion
            line = answer_line(self._plan.job, row, document)
        else:
            line = error_line(self._plan.job, row, error or RowError("internal_error", "no answer", 500))
        self.counts.rows += 1
        self.counts.failed += document is None
        self.counts.size += row.record.size
        self._writer.add(row.number, line, document is None)

    def _helper_ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal = self._fatal or error
        self._changed.set()

    def _report(self) -> None:
        self.counts.seconds = time.monotonic() - self._started
        self.counts.running = len(self._running)
        self._progress(self.counts)


async def _in_daemon(work: Callable[[], _T]) -> _T:
    """Runs `work` on a thread that nobody has to wait for: reading a pipe may last for ever."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(deliver, value, failure)

    threading.Thread(target=run, name="pyllm-rows", daemon=True).start()
    return await future


def recovered(plan: Plan) -> DoneRows:
    """The rows that the plan's files have already. PyllmError when one of them is not of this job."""
    done = DoneRows()
    last = 0
    for file in (plan.output, plan.errors):
        for number, key in file.recover() if file is not None else ():
            if not done.add([(number, key)]):
                raise PyllmError(f"{file.path}: row {number} is there twice")  # type: ignore[union-attr]
            if plan.ordered and number < last:
                raise PyllmError(
                    f"{file.path}: its rows are not in the input's order; go on without --ordered, or with "  # type: ignore[union-attr]
                    "--overwrite"
                )
            last = number
            done.failed += file is plan.errors
        last = 0
    return done
