"""The one thread that steps an engine, and the mailboxes in which callers on other threads get its events."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyllm import _core


class EngineEndedError(PyllmError):
    """The engine has ended, by close() or by its own failure: nothing more can be asked of it."""


# One step: (when it ended in time.perf_counter() seconds, its events). EngineEndedError ends every request.
Mail: TypeAlias = "tuple[float, list[_core.Event]] | EngineEndedError"


class Mailbox(Protocol):
    """Where events go: a queue.SimpleQueue, or whatever else takes them without waiting."""

    def put(self, mail: Mail, /) -> None: ...


def opened(mail: Mail) -> tuple[float, list[_core.Event]]:
    """The step; raises where the mail says that the engine has ended."""
    if isinstance(mail, EngineEndedError):
        raise EngineEndedError(str(mail)) from mail.__cause__
    return mail


class EngineThread:
    """Steps `engine` on a daemon thread until close(). Several threads may submit and cancel.

    Whatever ends the thread reaches everyone who waits: no caller hangs.
    """

    def __init__(self, engine: _core.Engine) -> None:
        self._engine: _core.Engine | None = engine  # None once closed: the memory is free
        self._ids = itertools.count(1)
        self._boxes: dict[int, Mailbox] = {}
        # Reentrant: close() may run from a garbage collection inside any of these methods.
        self._lock = threading.RLock()
        self._ended: EngineEndedError | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(engine,), name="pyllm-engine", daemon=True)
        self._thread.start()

    def submit(self, tokens: Sequence[int], params: _core.SamplingParams, box: Mailbox, **options: Any) -> int:
        """Queues a request, whose events will come to `box`; its id. options: of the engine's submit.

        A box that several requests share gets the events of a step at once.
        """
        with self._lock_here():
            engine = self._alive()
            request = next(self._ids)
            self._boxes[request] = box
        try:
            engine.submit(request, tokens, params, **options)
        except BaseException:
            self.cancel(request)  # an interrupt may come when the engine has it already
            raise
        return request

    def cancel(self, request: int) -> None:
        """Ends a request, if it still runs; no event of it comes any more (but some may be in its box)."""
        if self._process != os.getpid():
            return
        with self._lock:
            known = self._boxes.pop(request, None)
            engine = self._engine
        if known is not None and engine is not None:
            engine.cancel(request)

    @property
    def ended(self) -> str:
        """Why the engine has ended; "" while it runs."""
        return "" if self._ended is None else str(self._ended)

    @property
    def engine(self) -> _core.Engine:
        """The engine, for what any thread may ask of it. EngineEndedError when it has ended."""
        with self._lock_here():
            return self._alive()

    def stats(self) -> dict[str, int]:
        """The engine's counters."""
        return self.engine.stats()

    def close(self) -> None:
        """Ends the thread after its current step. Outstanding requests fail."""
        if self._process != os.getpid():
            return
        with self._lock:
            first = self._ended is None
            self._ended = self._ended or EngineEndedError("this LLM is closed")
            engine = self._engine
        if first and engine is not None:
            engine.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._engine = None

    def _lock_here(self) -> threading.RLock:
        # A forked child has neither the thread nor a lock that it can rely on.
        if self._process != os.getpid():
            raise PyllmError("an LLM does not survive a fork: make a new one in the new process")
        return self._lock

    def _alive(self) -> _core.Engine:
        if self._ended is not None or self._engine is None:
            raise EngineEndedError(str(self._ended)) from (self._ended.__cause__ if self._ended else None)
        return self._engine

    def _run(self, engine: _core.Engine) -> None:
        try:
            while self._ended is None:
                events = engine.step()
                now = time.perf_counter()
                mail: dict[Mailbox, list[_core.Event]] = {}
                for event in events:
                    if (box := self._boxes.get(event.id)) is not None:
                        mail.setdefault(box, []).append(event)
                for box, its_events in mail.items():
                    box.put((now, its_events))
        except BaseException as error:
            end = EngineEndedError(f"the engine stopped: {error or type(error).__name__}")
            end.__cause__ = error
            with self._lock:
                self._ended = self._ended or end
        with self._lock:
            boxes, self._boxes = set(self._boxes.values()), {}
        for box in boxes:
            box.put(self._ended or EngineEndedError("this LLM is closed"))
