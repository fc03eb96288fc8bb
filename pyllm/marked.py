"""Text that remembers which of its characters the chat template's author wrote.

Only the template's own text may become control tokens. So the literals of a template are `Marked`, and what
templates do to text (joining, cutting, trimming, formatting) keeps the marks. Whatever loses them on the way is
an ordinary `str` and counts as the user's: a mistake makes a marker plain text, never a user's text a marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

_CONVERSION = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?(?P<flags>[#0\- +]*)(?P<size>[\d.*]*)[hlL]?(?P<kind>.)", re.S
)


class Marked(str):
    """A str with a byte per character: 1 where the template's author wrote it, 0 where it came from outside."""

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> Marked:
        self = super().__new__(cls, text)
        self.marks = b"\1" * len(text) if marks is None else marks
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        return Marked(str.__mul__(self, count), self.marks * count.__index__())

    __rmul__ = __mul__

    def __getitem__(self, index: SupportsIndex | slice[Any, Any, Any]) -> str:
        if isinstance(index, slice):
            return Marked(str.__getitem__(self, index), self.marks[index])
        return Marked(str.__getitem__(self, index), bytes((self.marks[index],)))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __mod__(self, values: Any) -> str:
        return percent_format(self, values)

    def join(self, items: Iterable[str], /) -> str:
        return joined(items, self)

    def strip(self, characters: str | None = None, /) -> str:
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: str | None = None, /) -> str:
        return self[len(self) - len(str.lstrip(self, characters)) :]

    def rstrip(self, characters: str | None = None, /) -> str:
        return self[: len(str.rstrip(self, characters))]

    def removeprefix(self, prefix: str, /) -> str:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._pieces(str.splitlines(self, keepends), None)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        first, middle, last = self._pieces(list(str.partition(self, sep)), "")
        return first, middle, last

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        first, middle, last = self._pieces(list(str.rpartition(self, sep)), "")
        return first, middle, last

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            return str.replace(self, old, new, count)
        return joined(self.split(old, count), new) if count.__index__() else self

    def upper(self) -> str:
        return self._recased(str.upper(self))

    def lower(self) -> str:
        return self._recased(str.lower(self))

    def title(self) -> str:
        return self._recased(str.title(self))

    def capitalize(self) -> str:
        return self._recased(str.capitalize(self))

    def _recased(self, text: str) -> str:
        return Marked(text, self.marks) if len(text) == len(self) else text

    def _pieces(self, pieces: list[str], separator: str | None) -> list[str]:
        """Pieces of this text in their order, with their marks. Between them: `separator`, or white space."""
        out: list[str] = []
        at = 0
        for piece in pieces:
            if separator is None:
                at = self.index(piece, at)
            out.append(self[at : at + len(piece)])
            at += len(piece) + len(separator or "")
        return out


def marks_of(text: str) -> bytes:
    return text.marks if isinstance(text, Marked) else bytes(len(text))


def joined(parts: Iterable[str], separator: str = "") -> str:
    """str.join that keeps marks."""
    parts = list(parts)
    text = str.join(str.__str__(separator), parts)
    if not isinstance(separator, Marked) and not any(isinstance(part, Marked) for part in parts):
        return text
    return Marked(text, marks_of(separator).join([marks_of(part) for part in parts]))


def percent_format(pattern: str, values: Any) -> str:
    """`pattern % values`, with the marks of the pattern and of what `%s` puts in."""
    queue = list(values) if isinstance(values, tuple) else [values]
    parts: list[str] = []
    at = 0
    for match in _CONVERSION.finditer(pattern):
        parts.append(pattern[at : match.start()])
        at = match.end()
        key, kind = match["key"], match["kind"]
        if kind == "%":
            parts.append(Marked("%") if isinstance(pattern, Marked) else "%")
            continue
        if key is None and not queue:
            raise TypeError("not enough arguments for format string")
        value = values[key] if key is not None else queue.pop(0)
        plain = f"%{match['flags']}{match['size']}{kind}"
        parts.append(str(value) if plain == "%s" else plain % (value,))
    parts.append(pattern[at:])
    if queue and isinstance(values, tuple):
        raise TypeError("not all arguments converted during string formatting")
    return joined(parts)


def segments(text: str) -> list[tuple[str, bool]]:
    """Runs of equal marks: (text, True where the template's author wrote it)."""
    if not isinstance(text, Marked):
        return [(text, False)] if text else []
    plain = str.__str__(text)
    out, at = [], 0
    for run in re.finditer(rb"\x01+|\x00+", text.marks):
        out.append((plain[at : run.end()], run[0][0] == 1))
        at = run.end()
    return out
