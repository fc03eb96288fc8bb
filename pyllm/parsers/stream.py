"""Text that arrives in pieces, read as if it were all there.

A reader is a generator that yields where it needs more text. So a format reads like its grammar, and the result
cannot depend on how the text was cut: no reader sees where a piece ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
_SPACE = re.compile(r"\s+")
Show: TypeAlias = Callable[[str], None]


class Markers:
    """Texts to look for. None may lie within another but at its end: which one came first would be open."""

    def __init__(self, *texts: str) -> None:
        for inner in texts:
            for outer in texts:
                assert inner == outer or inner not in outer or outer.index(inner) + len(inner) == len(outer)
        self.texts = texts
        self._whole = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._first = re.compile("|".join({re.escape(text[0]) for text in texts}))
        self._beginnings = {text[:end] for text in texts for end in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    def search(self, text: str, start: int) -> tuple[int, str]:
        """Where the first one begins, and the marker; ("" where there is none) where one might begin."""
        if self._whole is None:
            return len(text), ""
        found = self._whole.search(text, start)
        if found:
            return found.start(), found.group()
        at = max(start, len(text) - self._longest)
        while first := self._first.search(text, at):
            at = first.start()
            if text[at:] in self._beginnings:
                return at, ""
            at += 1
        return len(text), ""


class Stream:
    """The text so far and a place in it. What is behind that place is forgotten, unless it is being kept."""

    def __init__(self, text: str = "", ended: bool = False) -> None:
        self.ended = ended  # no more text will come
        self._text = text
        self._at = 0
        self._kept: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text."""
        self._text = self._text[self._at :] + text
        self._at = 0

    # -- reading -----------------------------------------------------------------------------------------------

    def take(self, count: int) -> str:
        """The next characters, which must be there."""
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._kept is not None:
            self._kept.append(text)
        return text

    def peek(self) -> Steps[str]:
        """The next character, not taken; "" at the end."""
        while self._at >= len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._at]

    def match(self, *options: str) -> Steps[str]:
        """Takes the longest option that the text goes on with; "" where it does with none."""
        longest = max(map(len, options))
        while True:
            here = self._text[self._at : self._at + longest]
            if not self.ended and any(len(o) > len(here) and o.startswith(here) for o in options):
                yield
                continue
            return self.take(max((len(o) for o in options if here.startswith(o)), default=0))

    def until(self, markers: Markers, show: Show) -> Steps[str]:
        """Shows the text up to the first marker, takes that and returns it; "" when the end came first."""
        while True:
            at, marker = markers.search(self._text, self._at)
            if self.ended and not marker:
                at = len(self._text)
            if at > self._at:
                show(self.take(at - self._at))
            if marker:
                return self.take(len(marker))
            if self.ended:
                return ""
            yield

    def run(self, characters: re.Pattern[str], limit: int) -> Steps[str]:
        """Takes characters that match, at most `limit`."""
        parts: list[str] = []
        while (c := (yield from self.peek())) and len(parts) < limit and characters.match(c):
            parts.append(self.take(1))
        return "".join(parts)

    def space(self, show: Show | None = None) -> Steps[None]:
        """Takes whitespace."""
        while (c := (yield from self.peek())) and c.isspace():
            found = _SPACE.match(self._text, self._at)
            taken = self.take(found.end() - self._at if found else 1)
            if show is not None:
                show(taken)

    # -- going back --------------------------------------------------------------------------------------------

    def keep(self, text: str = "") -> None:
        """From here on, remembers what is taken; `text` counts as taken."""
        self._kept = [text]

    @property
    def keeping(self) -> bool:
        return self._kept is not None

    def kept(self) -> str:
        """What was taken since keep(), which ends here; "" when it had ended."""
        kept, self._kept = self._kept, None
        return "".join(kept or ())


def drive(steps: Steps[T]) -> T:
    """The result of a reader on a stream that has ended."""
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a reader waits for more text at the end")
