"""The one thread that steps an engine, and the mailboxes in which callers on other threads get its events."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyllm import _core

# (when the step ended in time.perf_counter() seconds, event); a PyllmError ends every request.
Mailbox: TypeAlias = "queue.SimpleQueue[tuple[float, _core.Event] | PyllmError]"


class EngineThread:
    """Steps `engine` on a daemon thread until close(). Several threads may submit and cancel.

    Whatever ends the thread reaches everyone who waits: no caller hangs.
    """

    def __init__(self, engine: _core.Engine) -> None:
        self._engine = engine
        self._ids = itertools.count(1)
        self._boxes: dict[int, Mailbox] = {}
        # Reentrant: close() may run from a garbage collection inside any of these methods.
        self._lock = threading.RLock()
        self._ended: PyllmError | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="pyllm-engine", daemon=True)
        self._thread.start()

    def submit(self, tokens: Sequence[int], params: _core.SamplingParams, box: Mailbox, **options: Any) -> int:
        """Queues a request, whose events will come to `box`; its id. options: of the engine's submit."""
        if self._process != os.getpid():
            raise PyllmError("an LLM does not survive a fork: make a new one in the new process")
        with self._lock:
            if self._ended is not None:
                raise PyllmError(str(self._ended)) from self._ended.__cause__
            request = next(self._ids)
            self._boxes[request] = box
        try:
            self._engine.submit(request, tokens, params, **options)
        except BaseException:
            with self._lock:
                self._boxes.pop(request, None)
            raise
        return request

    def cancel(self, request: int) -> None:
        """Ends a request, if it still runs; no event of it comes any more (but some may be in its box)."""
        with self._lock:
            known = self._boxes.pop(request, None)
        if known is not None and self._process == os.getpid():
            self._engine.cancel(request)

    def close(self) -> None:
        """Ends the thread after its current step. Outstanding requests fail."""
        with self._lock:
            first = self._ended is None
            self._ended = self._ended or PyllmError("this LLM is closed")
        if self._process != os.getpid():
            return
        if first:
            self._engine.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._ended is None:
                events = self._engine.step()
                now = time.perf_counter()
                for event in events:
                    if (box := self._boxes.get(event.id)) is not None:
                        box.put((now, event))
        except BaseException as error:
            end = PyllmError(f"the engine stopped: {error or type(error).__name__}")
            end.__cause__ = error
            with self._lock:
                self._ended = self._ended or end
        with self._lock:
            boxes, self._boxes = self._boxes, {}
        for box in boxes.values():
            box.put(self._ended or PyllmError("this LLM is closed"))
