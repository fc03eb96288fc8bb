"""JSON without markers, as a grammar makes it, and for models that do not say how they write calls."""

from __future__ import annotations

from pyllm.parsers.forced import GENERIC, Written
from pyllm.parsers.hermes import read_block
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format
from pyllm.parsers.python_calls import python_calls
from pyllm.parsers.stream import Steps


class Bare(Format):
    """A call, or a list of calls, that begins a line. Lists also in Python's notation: [f(x=1), g()]."""

    bare = ("{", "[")
    written: Written | None = GENERIC

    def read(self, marker: str) -> Steps[None]:
        yield from self.read_bare(marker)

    def read_bare(self, marker: str) -> Steps[None]:
        """After a brace or a bracket at the beginning of a line."""
        s = self.s
        if marker == "[":
            yield from s.space()
            if (yield from s.peek()) != "{":
                outcome = yield from python_calls(self, True, opened=True)
                yield from self.close(outcome)
                return
            s.take(1)
        outcome = yield from json_calls(self, True, ",", ";")
        yield from self.close(outcome)


class Generic(Bare):
    """Also Hermes' markers, which many models learn from others' data."""

    markers = ("<tool_call>",)
    texts = ("</tool_call>",)
    quotable = True

    def read(self, marker: str) -> Steps[None]:
        if marker in self.bare:
            yield from self.read_bare(marker)
        else:
            yield from read_block(self, "</tool_call>")
