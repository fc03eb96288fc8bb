"""Llama 3.1 to 3.3: {"name": ..., "parameters": {...}}, <|python_tag|> before it or not; Python lists of calls;
built-in tools as <|python_tag|>search.call(query="..."), and code for a tool that runs it."""

from __future__ import annotations

import re

from pyllm.parsers.forced import Json
from pyllm.parsers.generic import Bare
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Outcome
from pyllm.parsers.python_calls import python_arguments, written
from pyllm.parsers.stream import Markers, Steps
from pyllm.parsers.values import escaped

_TAG = "<|python_tag|>"
_INTERPRETERS = ("code_interpreter", "ipython", "python")
_NAME = re.compile(r"\w")


class Llama3(Bare):
    """The tag is a control token."""

    markers = (_TAG,)
    written = Json('{"name": "NAME", "parameters": ', between="; ")

    def read(self, marker: str) -> Steps[None]:
        if marker != _TAG:
            yield from self.read_bare(marker)
            return
        s = self.s
        yield from s.space()
        if (yield from s.match("{")):
            yield from self.close((yield from json_calls(self, False, ";", ",")), _TAG)
            return
        name = yield from s.run(_NAME, 200)
        if name and (yield from s.match(".call(")):
            self.start(name)
            yield from self.close((yield from python_arguments(self, name)), _TAG)
            return
        yield from self._code()

    def _code(self) -> Steps[None]:
        tool = next((tool for tool in _INTERPRETERS if tool in self.tools), None)
        if tool is None or not (yield from self.s.peek()):
            return
        code = self.s.kept().partition(_TAG)[2].lstrip()
        self.w.start(tool)
        parameters = self.tools.parameters(tool)
        self.w.arguments(f'{{"{escaped(parameters[0] if parameters else "code")}": "{escaped(code)}')
        yield from self.s.until(Markers(), lambda text: self.w.arguments(escaped(text)))
        self.w.arguments('"}')


class Llama4(Bare):
    """Llama 4 and 3.2 in Python's notation, between optional markers."""

    markers = ("<|python_start|>",)
    texts = ("<|python_end|>",)
    written = written("[", "]")

    def read(self, marker: str) -> Steps[None]:
        if marker in self.bare:
            yield from self.read_bare(marker)
            return
        yield from self.s.space()
        opening = yield from self.s.match("[", "{")
        if opening:
            yield from self.read_bare(opening)
            yield from self.close(Outcome.WHOLE, "<|python_end|>")
