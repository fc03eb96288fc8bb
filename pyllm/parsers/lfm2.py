"""Python's notation between markers: LFM2, Olmo 3."""

from __future__ import annotations

from typing import ClassVar

from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format
from pyllm.parsers.python_calls import python_calls, written
from pyllm.parsers.stream import Steps


class PythonBlocks(Format):
    """ends: {beginning marker: end marker}. Some models write JSON there when told to."""

    ends: ClassVar[dict[str, str]]

    def read(self, marker: str) -> Steps[None]:
        yield from self.s.space()
        if (yield from self.s.match("{", "[{")):
            outcome = yield from json_calls(self, False, ",")
        else:
            outcome = yield from python_calls(self, False)
        yield from self.close(outcome, self.ends[marker])


class Lfm2(PythonBlocks):
    """<|tool_call_start|>[f(x=1)]<|tool_call_end|>"""

    markers = ("<|tool_call_start|>",)
    ends: ClassVar = {"<|tool_call_start|>": "<|tool_call_end|>"}
    texts = ("<|tool_call_end|>",)
    written = written("<|tool_call_start|>[", "]<|tool_call_end|>")


class Olmo3(PythonBlocks):
    """<function_calls>f(x=1)</function_calls>"""

    markers = ("<function_calls>",)
    ends: ClassVar = {"<function_calls>": "</function_calls>"}
    texts = ("</function_calls>",)
    written = written("<function_calls>", "</function_calls>", between="\n")
    quotable = True
