"""Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}], and since version 11 of its tokenizer
[TOOL_CALLS]name[CALL_ID]id[ARGS]{...} with the first marker again before each call."""

from __future__ import annotations

import re

from pyllm.parsers.forced import Json
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Steps
from pyllm.parsers.values import JSON, value
from pyllm.parsers.writer import short_call_id

_NAME = re.compile(r"[\w.\-]")


class Mistral(Format):
    """All markers are control tokens."""

    markers = ("[TOOL_CALLS]",)
    texts = ("[ARGS]", "[CALL_ID]")
    written = Json('{"name": "NAME", "arguments": ', begin="[TOOL_CALLS][", end="]")
    new_id = staticmethod(short_call_id)

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        yield from s.space()
        opening = yield from s.match("[{", "[", "{")
        if opening == "[":
            yield from s.space()
            opening = yield from s.match("{")
        if opening:
            yield from self.close((yield from json_calls(self, False, ",")), "[TOOL_CALLS]")
            return
        name = yield from s.run(_NAME, 200)
        id = ""
        yield from s.space()
        if (yield from s.match("[CALL_ID]")):
            id = yield from s.run(_NAME, 200)
        if not (yield from s.match("[ARGS]")) and (yield from s.peek()) != "{":
            return
        yield from s.space()
        if not name or (yield from s.peek()) != "{":
            return
        self.start(name, id)
        if not (yield from value(s, JSON, self.w.arguments)):
            yield from self.close(Outcome.BROKEN, "[TOOL_CALLS]")
