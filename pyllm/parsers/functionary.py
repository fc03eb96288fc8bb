"""Functionary 3.1, and Llama 3.1 where a prompt asks for it: <function=NAME>{...}</function>."""

from __future__ import annotations

import re

from pyllm.parsers.forced import Json
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Steps
from pyllm.parsers.values import JSON, value

_NAME = re.compile(r"[\w.\-]")


class Functionary(Format):
    """The markers are words."""

    markers = ("<function=",)
    written = Json("<function=NAME>", "</function>", between="")
    quotable = True

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        name = yield from s.run(_NAME, 200)
        if not name or not (yield from s.match(">")):
            return
        yield from s.space()
        if (yield from s.peek()) != "{":
            return
        self.start(name)
        good = yield from value(s, JSON, self.w.arguments)
        yield from self.close(Outcome.WHOLE if good else Outcome.BROKEN, "</function>")
