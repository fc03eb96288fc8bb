"""The model loads behind the prompt."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyllm.chat.engine import Engine

_PATIENCE_S = 2.0


class Loading:
    """An engine that is being made on a thread. `changed` is called there when it is there or has failed."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.changed: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Starts it, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pyllm-load", daemon=True)
            self._thread.start()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def error(self) -> BaseException | None:
        return self._error

    def wait(self, seconds: float | None = None) -> Engine | None:
        """The engine; None when it takes longer. Raises what making it raised."""
        self.begin()
        self._done.wait(seconds)
        if self._error is not None:
            raise self._error
        return self._engine

    def end(self) -> None:
        """Closes the engine. One that is still being made is not waited for long: a thread within the core
        would not survive the interpreter's end, so the process ends at once."""
        if self._thread is None:
            return
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if sys.exc_info()[0] is None else 1)
        if self._engine is not None:
            self._engine.close()

    def _run(self) -> None:
        try:
            self._engine = self._make()
        except BaseException as error:
            self._error = error
        self._done.set()
        self.changed()
