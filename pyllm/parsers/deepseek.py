"""A name, a marker, JSON arguments, all between control tokens: DeepSeek V3, R1 and V3.1, Kimi K2."""

from __future__ import annotations

import re
from abc import abstractmethod

from pyllm.parsers.forced import Json
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Steps
from pyllm.parsers.values import JSON, value

_NAME = re.compile(r"[\w.\-:]")
_LONGEST = 200  # characters of a name


class _Section(Format):
    """markers: the section's beginning, a call's. `head` reads up to the arguments."""

    call: str
    call_end: str
    section_end: str

    @abstractmethod
    def head(self) -> Steps[tuple[str, str] | None]:
        """A call's (name, id); None where there is none."""

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        if marker != self.call:
            yield from s.space()
            if not (yield from s.match(self.call)):
                return
        while True:
            head = yield from self.head()
            yield from s.space()
            if head is None or (yield from s.peek()) != "{":
                return
            self.start(*head)
            good = yield from value(s, JSON, self.w.arguments)
            if not good:
                yield from self.close(Outcome.BROKEN, self.call_end)
            s.keep()
            yield from s.space()
            if (yield from s.match("```")):
                yield from s.space()
            if (yield from s.match(self.call_end)):
                s.keep()
            yield from s.space()
            if (yield from s.match(self.section_end)):
                s.kept()
                return
            if not (yield from s.match(self.call)):
                return
            s.keep(self.call)


class DeepSeek(_Section):
    """V3 and R1 say `function` before the name, and put the arguments in a block of code."""

    call = "<｜tool▁call▁begin｜>"
    call_end = "<｜tool▁call▁end｜>"
    section_end = "<｜tool▁calls▁end｜>"
    markers = ("<｜tool▁calls▁begin｜>", call)
    texts = (call_end, section_end, "<｜tool▁sep｜>")
    written = Json(
        f"{call}NAME<｜tool▁sep｜>", call_end, begin="<｜tool▁calls▁begin｜>", between="", end=section_end
    )

    def head(self) -> Steps[tuple[str, str] | None]:
        s = self.s
        name = yield from s.run(_NAME, _LONGEST)
        if not name or not (yield from s.match("<｜tool▁sep｜>")):
            return None
        yield from s.space()
        if name == "function" and (yield from s.peek()) != "{":
            name = yield from s.run(_NAME, _LONGEST)
            yield from s.space()
            yield from s.match("```json", "```")
        return (name, "") if name else None


class Kimi(_Section):
    """The id holds the name: functions.NAME:0. Its template wants such ids back."""

    call = "<|tool_call_begin|>"
    call_end = "<|tool_call_end|>"
    section_end = "<|tool_calls_section_end|>"
    markers = ("<|tool_calls_section_begin|>", call)
    texts = (call_end, section_end, "<|tool_call_argument_begin|>")

    def head(self) -> Steps[tuple[str, str] | None]:
        s = self.s
        yield from s.space()
        id = yield from s.run(_NAME, _LONGEST)
        yield from s.space()
        name = re.sub(r":\d+$", "", id.removeprefix("functions."))
        if not name or not (yield from s.match("<|tool_call_argument_begin|>")):
            return None
        return name, id
