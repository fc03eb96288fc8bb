"""Where an answer goes as it comes: to a pipe, to a plain terminal, or to one that shows markdown."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from pyllm.chat.screen import Line, Screen
from pyllm.terminal import Answer, printable

if TYPE_CHECKING:
    from rich.text import Text

_LEAST_S = 0.04  # between two paints


class Display(Protocol):
    """One answer, or several. think: whether reasoning is shown as well."""

    def add(self, text: str, reasoning: str, answer: int = 0) -> None: ...

    def refresh(self, status: str) -> None:
        """Comes some twenty times a second, whether there is something new or not."""
        ...

    def end(self) -> None: ...


class Nowhere:
    """The answer is shown in another form once it is whole."""

    def add(self, text: str, reasoning: str, answer: int = 0) -> None:
        pass

    def refresh(self, status: str) -> None:
        pass

    def end(self) -> None:
        pass


class Plain:
    """As it comes. Reasoning, where it is shown, goes before the answer in a paragraph of its own."""

    def __init__(self, think: bool) -> None:
        self._think = think
        self._out = Answer()
        self._reasoning = False

    def add(self, text: str, reasoning: str, answer: int = 0) -> None:
        if reasoning and self._think:
            self._out.write(("" if self._reasoning else "(thinking) ") + reasoning)
            self._reasoning = True
        if text:
            if self._reasoning:
                self._out.end()
                self._out.write("\n")
                self._reasoning = False
            self._out.write(text)

    def refresh(self, status: str) -> None:
        pass

    def end(self) -> None:
        self._out.end()


class Rendered:
    """Markdown on a terminal, with a line of status below while it comes."""

    def __init__(self, think: bool, colours: bool) -> None:
        from pyllm.chat.markdown import Markdown

        self._think = think
        self._screen = Screen()
        self._markdown = Markdown(colours)
        self._colours = colours
        self._reasoning = ""
        self._thinking = False
        self._changed = True
        self._status = ""
        self._size = (0, 0)
        self._next = 0.0

    def add(self, text: str, reasoning: str, answer: int = 0) -> None:
        if reasoning and self._think:
            self._reasoning += reasoning
            self._thinking = True
        if text:
            if self._thinking:
                self._screen.paint([*self._reasoning_lines(), Line("", 0)], ())
                self._thinking = False
            self._markdown.feed(text)
        self._changed = True

    def refresh(self, status: str) -> None:
        now = time.perf_counter()
        size = (self._screen.width, self._screen.height)
        if size != self._size:
            self._changed = True
            if self._size != (0, 0):
                self._next = now + 0.15  # a window being dragged: wait until it rests
            self._size = size
        if now < self._next or (not self._changed and status == self._status):
            return
        self._changed, self._status = False, status
        below = [self._dim(status[: size[0] - 1])] if status else []
        if self._thinking:
            self._screen.paint((), self._reasoning_lines(), below)
        else:
            finished, tail = self._markdown.lines(size[0])
            self._screen.paint(finished, tail, below)
        self._next = now + max(_LEAST_S, 4 * (time.perf_counter() - now))

    def end(self) -> None:
        if self._thinking:
            self._screen.end(self._reasoning_lines())
        else:
            self._screen.end(self._markdown.lines(self._screen.width, ended=True)[0])

    def _reasoning_lines(self) -> list[Line]:
        from rich.text import Text

        from pyllm.chat.markdown import wrapped

        text = Text(printable(self._reasoning.strip()))
        return [self._dim(line.plain) for line in wrapped(text, self._screen.width)]

    def _dim(self, text: str) -> Line:
        from rich.cells import cell_len

        return Line(f"\x1b[2m{text}\x1b[0m" if self._colours else text, cell_len(text))


def text_line(text: Text) -> str:
    """rich's text in the terminal's colours, for commands that print."""
    from rich.console import Console

    from pyllm.chat.markdown import styled

    return styled(text, Console(force_terminal=colours(), legacy_windows=False)).text


def colours() -> bool:
    """Whether standard output shows colours and the person wants them."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
