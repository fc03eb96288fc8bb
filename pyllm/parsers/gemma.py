"""Gemma 3 (Python or JSON in a block of code, or bare), Gemma 4 and FunctionGemma (a notation of their own)."""

from __future__ import annotations

import re
from typing import ClassVar

from pyllm.parsers.forced_parameters import Parameters
from pyllm.parsers.generic import Bare
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.python_calls import python_calls
from pyllm.parsers.stream import Steps
from pyllm.parsers.values import Notation, value

_NAME = re.compile(r"[\w.\-]")
_FENCE = "```"


class Gemma3(Bare):
    """It was told in its prompt how to call, which differs; Google's own pages use ```tool_code."""

    markers = ("```tool_code", "```tool_call", "```json")

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        if marker in self.bare:
            yield from self.read_bare(marker)
            return
        yield from s.space()
        brace = yield from s.match("{", "[{")
        if brace:
            outcome = yield from json_calls(self, True, ",")
        else:
            outcome = yield from python_calls(self, True)
        yield from self.close(outcome, _FENCE)


class _Braces(Format):
    """call:NAME{key:value}, strings between `quote`, which nothing escapes."""

    quote: ClassVar[str]
    end: ClassVar[str]

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        if not (yield from s.match("call:")):
            return
        name = yield from s.run(_NAME, 200)
        if not name or (yield from s.peek()) != "{":
            return
        self.start(name)
        notation = Notation((self.quote,), escapes=False, bare_keys=True)
        good = yield from value(s, notation, self.w.arguments)
        yield from self.close(Outcome.WHOLE if good else Outcome.BROKEN, self.end)


def _written(start: str, quote: str, end: str) -> Parameters:
    return Parameters(
        f"{start}call:NAME{{",
        f"}}{end}",
        "NAME:",
        text_end=quote,
        text_parameter=f"NAME:{quote}",
        separator=",",
        names=re.compile(r"[\w\-.]{1,200}"),
        simple=True,
    )


class Gemma4(_Braces):
    """<|tool_call>call:f{city:<|"|>Rome<|"|>}<tool_call|>"""

    markers = ("<|tool_call>",)
    quote = '<|"|>'
    end = "<tool_call|>"
    texts = (quote, end)
    written = _written("<|tool_call>", quote, end)


class FunctionGemma(_Braces):
    """<start_function_call>call:f{city:<escape>Rome<escape>}<end_function_call>"""

    markers = ("<start_function_call>",)
    quote = "<escape>"
    end = "<end_function_call>"
    texts = (quote, end)
    written = _written("<start_function_call>", quote, end)
