"""GLM 4.5 to 4.7: <tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>."""

from __future__ import annotations

import re

from pyllm.parsers.forced_parameters import Parameters
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Markers, Steps
from pyllm.parsers.values import escaped

_NAME = re.compile(r"[\w.\-]")
_KEY = re.compile(r"[^<\n]")
_END = "</tool_call>"
_VALUE_END = Markers("</arg_value>")


class Glm(Format):
    """The tool's schema says which values are strings."""

    markers = ("<tool_call>",)
    texts = (_END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    written = Parameters(
        "<tool_call>NAME\n",
        _END,
        "<arg_key>NAME</arg_key>\n<arg_value>",
        "</arg_value>\n",
        "</arg_value>",
        "\n",
        between="\n",
        names=re.compile(r"[^<\n]{1,200}"),
    )
    quotable = True

    def read(self, marker: str) -> Steps[None]:
        s, show = self.s, self.w.arguments
        yield from s.space()
        name = yield from s.run(_NAME, 200)
        yield from s.space()
        found = (yield from s.match("<arg_key>", _END)) if name else ""
        if not found:
            return
        self.start(name)
        before = "{"
        while found == "<arg_key>":
            key = yield from s.run(_KEY, 200)
            show(f'{before}"{escaped(key)}": ')
            before = ", "
            if not (yield from s.match("</arg_key>")) or not (yield from self._value(name, key)):
                yield from self.close(Outcome.BROKEN, _END)
                return
            yield from s.space()
            found = yield from s.match("<arg_key>", _END)
        if found:
            show("{}" if before == "{" else "}")
        else:
            yield from self.close(Outcome.BROKEN, _END)

    def _value(self, tool: str, key: str) -> Steps[bool]:
        s, show = self.s, self.w.arguments
        yield from s.space()
        if not (yield from s.match("<arg_value>")):
            return False
        if self.tools.is_text(tool, key):
            show('"')
            ended = yield from s.until(_VALUE_END, lambda text: show(escaped(text)))
            show('"' if ended else "")
        else:
            parts: list[str] = []
            ended = yield from s.until(_VALUE_END, parts.append)
            show(self.tools.as_json(tool, key, "".join(parts)) if ended else "".join(parts))
        return bool(ended)
