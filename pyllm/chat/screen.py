"""The bottom of a terminal: lines that still change. What is above them is left alone, for the scrollback.

Only what differs is written, in one write per paint, so nothing flickers. Positions are counted in rows, never
in columns: a character whose width the terminal sees otherwise garbles nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # synchronized update; terminals without it ignore it
# Terminals that wrap their lines anew when the width changes.
_REFLOWING = (
    "TMUX",
    "VTE_VERSION",
    "KITTY_WINDOW_ID",
    "KONSOLE_VERSION",
    "ALACRITTY_WINDOW_ID",
    "WEZTERM_PANE",
    "WT_SESSION",
    "TERM_PROGRAM",
)


@dataclass(frozen=True)
class Line:
    """text: with its colours. width: in columns, which may be more than the terminal has."""

    text: str
    width: int

    def rows(self, columns: int) -> int:
        return max(1, -(-self.width // columns))


BLANK = Line("", 0)


class Screen:
    """`width`, `height`: of the terminal, now."""

    def __init__(self) -> None:
        self._shown: list[
            Line
        ] = []  # the lines that can still change; the cursor stands at the end of the last
        self._gone = 0  # lines of the unfinished text that have left through the top
        self._columns = 0
        self._open = False  # whether the cursor stands at the end of a line that stays
        self._reflows = any(os.environ.get(name) for name in _REFLOWING)

    @property
    def width(self) -> int:
        return max(8, shutil.get_terminal_size().columns)

    @property
    def height(self) -> int:
        return max(4, shutil.get_terminal_size().lines)

    def paint(self, finished: Sequence[Line], tail: Sequence[Line], below: Sequence[Line] = ()) -> None:
        """finished: the first lines of what was tail before, as they stay. tail: what may still change.
        below: shown under it, never part of the text."""
        columns, height = self.width, self.height
        lines = [*finished, *tail][self._gone :] + list(below)
        old, cursor = self._shown, self._rows_up(columns)
        same = 0
        if self._columns in (0, columns):
            while same < min(len(lines), len(old)) - 1 and lines[same] == old[same]:
                same += 1
            cursor = sum(line.rows(columns) for line in old[same:])
        if lines[same:] != old[same:] or self._columns != columns:
            self._write(lines[same:], cursor, columns)
        self._columns = columns
        self._gone = max(0, self._gone - len(finished))
        left = lines[max(0, len(lines) - len(tail) - len(below)) :]
        while len(left) > len(below) and sum(line.rows(columns) for line in left) > height - 1:
            left = left[1:]
            self._gone += 1
        self._shown = left
        self._open = not left and (self._open or bool(lines))

    def end(self, finished: Sequence[Line]) -> None:
        """The last of it; what follows starts on a new line."""
        self.paint(finished, ())
        if self._open:
            sys.stdout.write("\r\n")
            sys.stdout.flush()
        self._shown, self._gone, self._columns, self._open = [], 0, 0, False

    def _rows_up(self, columns: int) -> int:
        """Rows that the shown lines take, after the width changed: at most what is surely theirs."""
        now = sum(line.rows(columns) for line in self._shown)
        if self._reflows or not self._columns:
            return now
        return min(now, sum(line.rows(self._columns) for line in self._shown))

    def _write(self, lines: Sequence[Line], up: int, columns: int) -> None:
        out = [_BEGIN, "\r\n" if self._open and lines else "\r"]
        if up > 1:
            out.append(f"\x1b[{up - 1}A")
        # Erasing after a line that ends in the last column would take its last character.
        full = any(line.width and line.width % columns == 0 for line in lines)
        if full or self._columns != columns or not lines:
            out.append("\x1b[J")
            out.append("\r\n".join(line.text for line in lines))
        else:
            out.append("\r\n".join(line.text + "\x1b[K" for line in lines))
            out.append("\x1b[J")
        out.append(_END)
        sys.stdout.write("".join(out))
        sys.stdout.flush()
