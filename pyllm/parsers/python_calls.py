"""Calls as Python: f(x=1, y='a'), alone or in a list. Arguments without names take the tool's in order."""

from __future__ import annotations

import re

from pyllm.parsers.forced_parameters import Parameters
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Steps
from pyllm.parsers.values import PYTHON, escaped, value

_NAME = re.compile(r"[\w.\-]")
_WORD = re.compile(r"\w")
_LONGEST = 200  # characters of a name
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}


def written(begin: str, end: str, between: str = ", ") -> Parameters:
    """How calls are forced: JSON's strings are Python's too, and its words true, false and null are read."""
    names = re.compile(r"[A-Za-z_]\w{0,199}")
    return Parameters("NAME(", ")", "NAME=", separator=", ", begin=begin, between=between, end=end, names=names)


def python_calls(f: Format, known_only: bool, opened: bool = False) -> Steps[Outcome]:
    """A list of calls, its bracket taken (`opened`) or not, or calls line by line."""
    if not opened:
        yield from f.s.space()
        opened = bool((yield from f.s.match("[")))
    outcome = Outcome.NONE
    while True:
        yield from f.s.space()
        if outcome is not Outcome.NONE and opened and (yield from f.s.match("]")):
            f.s.kept()
            return outcome
        following = yield from python_call(f, known_only)
        if following is not Outcome.WHOLE:
            return outcome if following is Outcome.NONE else following
        outcome = following
        f.s.keep()
        yield from f.s.space()
        yield from f.s.match(",", ";")


def python_call(f: Format, known_only: bool) -> Steps[Outcome]:
    """One call."""
    s = f.s
    name = yield from _name(f)
    printed = name == "print" and name not in f.tools
    if printed:
        yield from s.space()
        name = yield from _name(f)
    if not name:
        return Outcome.NONE
    last = name.rpartition(".")[2]
    if name not in f.tools and last in f.tools:
        name = last
    if known_only and name not in f.tools:
        return Outcome.NONE
    f.start(name)
    outcome = yield from python_arguments(f, name)
    if printed and outcome is Outcome.WHOLE:
        yield from s.space()
        yield from s.match(")")
    return outcome


def python_arguments(f: Format, name: str) -> Steps[Outcome]:
    """The rest of a call of `name`, whose opening parenthesis has been taken."""
    s, show = f.s, f.w.arguments
    parameters = list(reversed(f.tools.parameters(name)))
    before = "{"
    while True:
        yield from s.space()
        if (yield from s.match(")")):
            show("{}" if before == "{" else "}")
            return Outcome.WHOLE
        show(before)
        word = yield from s.run(_WORD, _LONGEST) if _letter((yield from s.peek())) else _nothing()
        yield from s.space()
        if word and (yield from s.match("=")):
            if word in parameters:
                parameters.remove(word)
            show(f'"{escaped(word)}": ')
            yield from s.space()
            word = ""
        elif parameters and (not word or word in _WORDS):
            show(f'"{escaped(parameters.pop())}": ')
        else:
            show(word)
            return Outcome.BROKEN
        if word:
            show(_WORDS[word])
        elif not (yield from value(s, PYTHON, show)):
            return Outcome.BROKEN
        yield from s.space()
        before = ", "
        if not (yield from s.match(",")) and (yield from s.peek()) != ")":
            return Outcome.BROKEN


def _name(f: Format) -> Steps[str]:
    """Up to its opening parenthesis; "" where there is none."""
    name = yield from f.s.run(_NAME, _LONGEST)
    yield from f.s.space()
    return name if (yield from f.s.match("(")) else ""


def _letter(c: str) -> bool:
    return c.isalpha() or c == "_"


def _nothing() -> Steps[str]:
    yield from ()
    return ""
