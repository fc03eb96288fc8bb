"""Collects finished rows and writes them in groups, in the order of the input where that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

GATHER_S = 0.25  # rows that finish within it are synced together
ROWS = 256  # that may wait to be written
SIZE = 4 << 20  # their bytes
AHEAD = 4096  # rows that may be finished before the first one, where the order is kept


class Appends(Protocol):
    """A file that rows are added to."""

    def append(self, lines: list[bytes]) -> None: ...


class Writer:
    """Belongs to one event loop; the disk is waited for on another thread."""

    def __init__(self, output: Appends, errors: Appends | None, ordered: bool) -> None:
        """errors: where rows that failed go, None: to the others."""
        self._output = output
        self._errors = errors
        self._ordered = ordered
        self._expected: deque[int] = deque()  # numbers of rows that were read and not written
        self._early: dict[int, tuple[bool, bytes]] = {}  # finished, but not the next in order
        self._lines: tuple[list[bytes], list[bytes]] = ([], [])
        self._size = 0
        self._urgent = asyncio.Event()
        self._closed = False
        self.written = 0  # rows

    @property
    def full(self) -> bool:
        """Whether no further row should start until some are written."""
        return self._size >= SIZE or sum(map(len, self._lines)) >= ROWS

    @property
    def far_ahead(self) -> bool:
        """Whether no further row should be read until the first ones have finished."""
        return self._ordered and len(self._expected) >= AHEAD

    def expect(self, number: int) -> None:
        """A row that will come; called in the input's order."""
        if self._ordered:
            self._expected.append(number)

    def add(self, number: int, line: bytes, failed: bool) -> None:
        """A finished row."""
        if not self._ordered:
            self._queue(line, failed)
            return
        self._early[number] = failed, line
        while self._expected and self._expected[0] in self._early:
            failed, line = self._early.pop(self._expected.popleft())
            self._queue(line, failed)

    def close(self) -> None:
        """No row will come any more."""
        self._closed = True
        self._urgent.set()

    async def run(self, wrote: Callable[[], None]) -> None:
        """Writes until it is closed and all is written; wrote() after each group. PyllmError: the disk."""
        while not self._closed or self._size:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), GATHER_S)
            self._urgent.clear()
            lines, self._lines, self._size = self._lines, ([], []), 0
            for file, its_lines in zip((self._output, self._errors), lines, strict=True):
                if file is not None and its_lines:
                    await asyncio.to_thread(file.append, its_lines)
                    self.written += len(its_lines)
            wrote()

    def _queue(self, line: bytes, failed: bool) -> None:
        self._lines[failed and self._errors is not None].append(line)
        self._size += len(line)
        if self.full:
            self._urgent.set()
