"""Ctrl-C as a flag: nothing is torn apart in its middle. And no echo of what is typed out of turn."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """`came`: Ctrl-C was pressed."""

    came = False


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Collects Ctrl-C meanwhile."""
    flag = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        flag.came = True

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def keys(shown: bool) -> Iterator[None]:
    """Whether the terminal shows what is typed, a line at a time. Unshown, it waits for the next prompt."""
    try:
        import termios
    except ImportError:  # no POSIX terminal
        yield
        return
    try:
        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
    except (termios.error, OSError, ValueError):
        yield
        return
    wanted = termios.tcgetattr(file)
    flags = termios.ECHO | termios.ICANON
    wanted[3] = wanted[3] | flags if shown else wanted[3] & ~flags
    try:
        termios.tcsetattr(file, termios.TCSANOW, wanted)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(file, termios.TCSANOW, before)
