"""Values as models write them (JSON, Python, Gemma's own notation), read as they come and shown as JSON.

What models often get wrong in JSON is put right where its meaning is clear: line breaks in strings, unknown
escapes, commas before a closing bracket, True and None.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property

from pyllm.parsers.stream import Markers, Show, Steps, Stream, drive

_MAX_DEPTH = 200  # readers of the result may recurse
_MAX_WORD = 1000  # characters of a number
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_WORD = re.compile(r"[\w+\-.]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CLOSERS = {"[": "]", "{": "}", "(": ")"}
_AS_JSON = {"(": "[", ")": "]"}


@dataclass(frozen=True)
class Notation:
    """quotes: of strings. escapes: a backslash means something. bare_keys: keys are words. python: (1, 2) is a
    list, and keys may be numbers."""

    quotes: tuple[str, ...]
    escapes: bool = True
    bare_keys: bool = False
    python: bool = False

    @cached_property
    def string_ends(self) -> dict[str, Markers]:
        return {quote: Markers(quote, "\\") if self.escapes else Markers(quote) for quote in self.quotes}


JSON = Notation(('"',))
PYTHON = Notation(('"', "'", '"""', "'''"), python=True)


def value(s: Stream, notation: Notation, show: Show) -> Steps[bool]:
    """Reads one value. False where the text stops being one; what was read until there has been shown."""
    open_: list[str] = []  # closers that are due
    comma = ""  # and the space after it: not shown before it is clear that something follows
    key = False  # a key is due, not a value
    first = True  # of a list or mapping, which may end at once

    def blank(space: str) -> None:
        nonlocal comma
        space = space if not space.strip(" \t\r\n") else " "
        if comma:
            comma += space
        else:
            show(space)

    while True:
        c = yield from s.peek()
        if c.isspace():
            yield from s.space(blank)
            continue
        if open_ and c == open_[-1] and (first or comma):
            comma = ""
        else:
            show(comma)
            comma = ""
            quote = yield from s.match(*notation.quotes)
            if not quote and c in _CLOSERS and not key and (notation.python or c != "("):
                s.take(1)
                if len(open_) == _MAX_DEPTH:
                    return False
                show(_AS_JSON.get(c, c))
                open_.append(_CLOSERS[c])
                key, first = c == "{", True
                continue
            good = (
                (yield from string(s, notation, quote, show))
                if quote
                else (yield from _word(s, notation, key, show))
            )
            if not good:
                return False
            if key:
                yield from s.space(blank)
                if not (yield from s.match(":")):
                    return False
                show(":")
                key = first = False
                continue
        # A value or a list has ended: so do those that close here.
        while True:
            if not open_:
                return True
            yield from s.space(blank)
            c = yield from s.peek()
            if c != open_[-1]:
                break
            s.take(1)
            show(_AS_JSON.get(c, c))
            open_.pop()
        if c != ",":
            return False
        comma = s.take(1)
        key, first = open_[-1] == "}", False


def string(s: Stream, notation: Notation, quote: str, show: Show) -> Steps[bool]:
    """The rest of a string whose opening quote has been taken."""
    show('"')
    while True:
        hit = yield from s.until(notation.string_ends[quote], lambda text: show(escaped(text)))
        if hit == quote:
            show('"')
            return True
        if not hit:
            return False
        yield from (_python_escape if notation.python else _json_escape)(s, show)


def escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def decoded(text: str) -> object:
    """What JSON means. Halves of a surrogate pair, which no UTF-8 holds, are replaced."""
    found: object = json.loads(text)
    return (
        found.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(found, str) else found
    )


def converted(text: str, notation: Notation) -> str | None:
    """A whole value as JSON; None where the text is not exactly one."""
    s, parts = Stream(text, ended=True), list[str]()
    if not drive(value(s, notation, parts.append)):
        return None
    drive(s.space())
    return None if drive(s.peek()) else "".join(parts)


def _word(s: Stream, notation: Notation, key: bool, show: Show) -> Steps[bool]:
    word = yield from s.run(_WORD, _MAX_WORD)
    if key and (notation.bare_keys or notation.python):
        if not word or (notation.python and _number(word) is None):
            show(word)
            return False
        show(f'"{escaped(word)}"')
        return True
    known = None if key else _WORDS.get(word) or _number(word)
    show(known or word)
    return known is not None


def _number(word: str) -> str | None:
    if _NUMBER.fullmatch(word):
        return word
    if not word[:1].isascii() or not re.match(r"[+-]?\.?[0-9]", word):
        return None
    try:
        number = int(word, 0)
    except ValueError:
        try:
            real = float(word)
        except ValueError:
            return None
        return repr(real) if math.isfinite(real) else None
    return str(number)


def _json_escape(s: Stream, show: Show) -> Steps[None]:
    c = yield from s.peek()
    if c and c in '"\\/bfnrt':
        show("\\" + s.take(1))
    elif c == "u":
        yield from _hexadecimal(s, 4, show)
    elif c == "'":
        show(s.take(1))
    else:
        show("\\\\")  # it means itself


_PYTHON_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "a": "\a",
    "v": "\v",
    "0": "\0",
    "\n": "",
}
_PYTHON_ESCAPES |= {c: c for c in "\\'\""}
_HEXADECIMAL_DIGIT = re.compile("[0-9a-fA-F]")
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def _python_escape(s: Stream, show: Show) -> Steps[None]:
    c = yield from s.peek()
    if c in _PYTHON_ESCAPES:
        show(escaped(_PYTHON_ESCAPES[s.take(1)]))
    elif c in _HEXADECIMAL:
        yield from _hexadecimal(s, _HEXADECIMAL[c], show)
    else:
        show("\\\\")


def _hexadecimal(s: Stream, count: int, show: Show) -> Steps[None]:
    letter = s.take(1)
    digits = yield from s.run(_HEXADECIMAL_DIGIT, count)
    if len(digits) < count or int(digits, 16) > 0x10FFFF:
        show("\\\\" + letter + digits)
    elif count == 4 or 0xD800 <= int(digits, 16) < 0xE000:
        show("\\u" + digits[-4:])
    else:
        show(escaped(chr(int(digits, 16))))
