"""Hermes, Qwen 2.5 and 3, Granite 4 and many more: <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""

from __future__ import annotations

from typing import ClassVar

from pyllm.parsers.forced import Json
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format
from pyllm.parsers.stream import Steps


class JsonBlocks(Format):
    """Objects, or a list of them, between two markers. ends: {beginning marker: end marker}."""

    ends: ClassVar[dict[str, str]]

    def read(self, marker: str) -> Steps[None]:
        yield from read_block(self, self.ends[marker])


def read_block(f: Format, end: str) -> Steps[None]:
    """An object or a list of them, up to `end`."""
    yield from f.s.space()
    if (yield from f.s.match("[")):
        yield from f.s.space()
    if (yield from f.s.match("{")):
        yield from f.close((yield from json_calls(f, False, ",")), end)


class Hermes(JsonBlocks):
    """Words of the text in most vocabularies, so that code may show them."""

    markers = ("<tool_call>",)
    ends: ClassVar = {"<tool_call>": "</tool_call>"}
    texts = ("</tool_call>",)
    quotable = True
    written = Json('<tool_call>\n{"name": "NAME", "arguments": ', close="}\n</tool_call>", between="\n")
