"""Several answers at once: side by side where the terminal is wide enough, else one below the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from pyllm.chat.markdown import wrapped
from pyllm.chat.screen import Line, Screen
from pyllm.terminal import printable

_LEAST = 26  # columns of an answer
_BETWEEN = " │ "


class Columns:
    """The candidates as they come: their last lines, all of them in the end."""

    def __init__(self, count: int) -> None:
        self._texts = [""] * count
        self._screen = Screen()
        self._next = 0.0

    def add(self, text: str, reasoning: str, answer: int = 0) -> None:
        self._texts[answer] += text

    def refresh(self, status: str) -> None:
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + 0.1
        width = self._screen.width
        lines = list(side_by_side(self._texts, width))
        shown = (
            lines if len(lines) < self._screen.height - 2 else lines[:1] + lines[-(self._screen.height - 3) :]
        )
        status = status[: width - 1]
        self._screen.paint((), [_line(line) for line in shown], [Line(status, cell_len(status))])

    def end(self) -> None:
        self._screen.end([_line(line) for line in side_by_side(self._texts, self._screen.width)])


class Silent:
    """The candidates where lines cannot be changed: all of them in the end, one below the other."""

    def __init__(self, count: int) -> None:
        self._texts = [""] * count

    def add(self, text: str, reasoning: str, answer: int = 0) -> None:
        self._texts[answer] += text

    def refresh(self, status: str) -> None:
        pass

    def end(self) -> None:
        for line in side_by_side(self._texts, 0):
            print(line, flush=True)


def side_by_side(texts: Sequence[str], width: int) -> Iterator[str]:
    """Lines of the answers, each with its number. width 0: not wrapped, one below the other."""
    count = len(texts)
    each = (width - 1 - len(_BETWEEN) * (count - 1)) // count
    if each < _LEAST:
        for number, text in enumerate(texts, 1):
            yield f"── {number} ──"
            yield from _wrapped(text, width)
        return
    columns = [[f"── {number} ──", *_wrapped(text, each + 1)] for number, text in enumerate(texts, 1)]
    for row in range(max(map(len, columns))):
        cells = [column[row] if row < len(column) else "" for column in columns]
        padded = [cell + " " * (each - cell_len(cell)) for cell in cells[:-1]]
        yield _BETWEEN.join([*padded, cells[-1]])


def _wrapped(text: str, width: int) -> list[str]:
    text = printable(text.strip())
    return [line.plain for line in wrapped(Text(text), width)] if width else text.split("\n")


def _line(text: str) -> Line:
    return Line(text, cell_len(text))
