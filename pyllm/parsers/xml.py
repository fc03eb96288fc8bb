"""Calls as tags, values as they are: Qwen3-Coder, MiniMax M2, DeepSeek V3.2, Seed-OSS. The tool's schema says
which values are strings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyllm.parsers.forced_parameters import Parameters
from pyllm.parsers.json_calls import json_calls
from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Markers, Steps
from pyllm.parsers.values import escaped

_NAME = re.compile(r"""[^\s<>"=]""")
_LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Tags:
    """call, parameter: what stands before a name. name_end: what stands after it, with whether the value is a
    string where that says so. A value may have line breaks of its own around it."""

    call: str
    call_end: str
    parameter: str
    parameter_end: str
    name_end: tuple[tuple[str, bool | None], ...]


class Xml(Format):
    """section: markers around all calls."""

    tags: Tags
    section: tuple[tuple[str, str], ...] = ()

    def read(self, marker: str) -> Steps[None]:
        s, tags = self.s, self.tags
        end = dict(self.section).get(marker, "")
        if end:
            yield from s.space()
            if (yield from s.match("{")):  # seen from models trained on both
                yield from self.close((yield from json_calls(self, False)), end)
                return
            if not (yield from s.match(tags.call)):
                return
        while (yield from self._call(end)):
            s.keep()
            yield from s.space()
            if end and (yield from s.match(end)):
                s.kept()
                return
            if not end or not (yield from s.match(tags.call)):
                return

    def _call(self, section_end: str) -> Steps[bool]:
        s, tags = self.s, self.tags
        name = yield from s.run(_NAME, _LONGEST)
        if not name or not (yield from s.match('">', ">")):
            return False
        self.start(name)
        before = "{"
        while True:
            yield from s.space()
            if not (yield from s.match(tags.parameter)):
                break
            self.w.arguments(before)
            before = ", "
            if not (yield from self._parameter(name)):
                yield from self.close(Outcome.BROKEN, section_end or tags.call_end)
                return False
        ended = yield from s.match(tags.call_end)
        if not ended and section_end and (yield from s.match(section_end)):
            self.w.arguments("{}" if before == "{" else "}")
            return False
        if ended:
            self.w.arguments("{}" if before == "{" else "}")
        elif (yield from s.peek()):
            yield from self.close(Outcome.BROKEN, section_end or tags.call_end)
        return bool(ended)

    def _parameter(self, tool: str) -> Steps[bool]:
        s, tags, show = self.s, self.tags, self.w.arguments
        name = yield from s.run(_NAME, _LONGEST)
        ends = dict(tags.name_end)
        end = (yield from s.match(*ends)) if name else ""
        if not end:
            show(name)
            return False
        show(f'"{escaped(name)}": ')
        text = self.tools.is_text(tool, name) if ends[end] is None else ends[end]
        markers = Markers(tags.parameter_end, "\n" + tags.parameter_end)
        yield from s.match("\n")
        if text:
            show('"')
            ended = yield from s.until(markers, lambda piece: show(escaped(piece)))
            show('"' if ended else "")
        else:
            parts: list[str] = []
            ended = yield from s.until(markers, parts.append)
            whole = "".join(parts)
            show(self.tools.as_json(tool, name, whole) if ended else whole)
        return bool(ended)


class Qwen3Coder(Xml):
    """Also Nemotron 3, Step 3.5."""

    markers = ("<tool_call>", "<function=")
    section = (("<tool_call>", "</tool_call>"),)
    tags = Tags("<function=", "</function>", "<parameter=", "</parameter>", ((">", None),))
    texts = ("</tool_call>",)
    written = Parameters(
        "<tool_call>\n<function=NAME>\n",
        "</function>\n</tool_call>",
        "<parameter=NAME>\n",
        "\n</parameter>\n",
        "</parameter>",
        "\n",
        between="\n",
    )
    quotable = True


class Seed(Xml):
    """Seed-OSS."""

    markers = ("<seed:tool_call>",)
    section = (("<seed:tool_call>", "</seed:tool_call>"),)
    tags = Qwen3Coder.tags
    texts = ("</seed:tool_call>",)
    written = Parameters(
        "<seed:tool_call>\n<function=NAME>\n",
        "</function>\n</seed:tool_call>",
        "<parameter=NAME>",
        "</parameter>\n",
        "</parameter>",
        "\n",
        between="\n",
    )


class MiniMax(Xml):
    """MiniMax M2."""

    markers = ("<minimax:tool_call>",)
    section = (("<minimax:tool_call>", "</minimax:tool_call>"),)
    tags = Tags('<invoke name="', "</invoke>", '<parameter name="', "</parameter>", (('">', None),))
    texts = ("</minimax:tool_call>",)
    written = Parameters(
        '<invoke name="NAME">\n',
        "</invoke>\n",
        '<parameter name="NAME">',
        "</parameter>\n",
        "</parameter>",
        "\n",
        begin="<minimax:tool_call>\n",
        end="</minimax:tool_call>",
    )


class DeepSeekXml(Xml):
    """DeepSeek V3.2 and V4."""

    markers = ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>")
    section = (
        ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
        ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
    )
    tags = Tags(
        '<｜DSML｜invoke name="',
        "</｜DSML｜invoke>",
        '<｜DSML｜parameter name="',
        "</｜DSML｜parameter>",
        (('" string="true">', True), ('" string="false">', False), ('">', None)),
    )
    texts = (*(end for _, end in section), tags.call, tags.call_end)
    written = Parameters(
        '<｜DSML｜invoke name="NAME">\n',
        "</｜DSML｜invoke>\n",
        '<｜DSML｜parameter name="NAME" string="false">',
        "</｜DSML｜parameter>\n",
        "</｜DSML｜parameter>",
        "\n",
        '<｜DSML｜parameter name="NAME" string="true">',
        begin="<｜DSML｜function_calls>\n",
        end="</｜DSML｜function_calls>",
    )
