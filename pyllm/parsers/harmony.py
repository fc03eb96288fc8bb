"""gpt-oss: messages on channels. `analysis` is reasoning, `final` the answer, `commentary` calls and what is
said before them: <|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>."""

from __future__ import annotations

import re

from pyllm.parsers.forced import Json
from pyllm.parsers.parser import Format
from pyllm.parsers.reasoning import Thinking
from pyllm.parsers.stream import Markers, Steps

_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_HEADER = Markers(_MESSAGE)
_ENDS = Markers("<|end|>", "<|call|>", "<|return|>", _START)
_TO = re.compile(r"to=(?:functions\.)?([\w.\-]+)")

ANALYSIS = Thinking(f"{_CHANNEL}analysis{_MESSAGE}", f"<|end|>{_START}assistant")
FINAL = f"{_CHANNEL}final{_MESSAGE}"


class Harmony(Format):
    """All markers are control tokens. The prompt ends with `<|start|>assistant`, so headers begin at once."""

    markers = (_CHANNEL, _START)
    bare = (" to=",)
    written = Json(f"{_CHANNEL}commentary to=functions.NAME <|constrain|>json{_MESSAGE}", "", single=True)
    texts = ("<|end|>", "<|call|>", "<|return|>", "<|constrain|>", _MESSAGE)

    def read(self, marker: str) -> Steps[None]:
        s = self.s
        parts = [marker]
        while (yield from s.until(_HEADER, parts.append)):
            header = "".join(parts)
            channel = header.partition(_CHANNEL)[2].split("<")[0].split()
            recipient = _TO.search(header)
            if recipient and recipient.group(1) != "assistant":
                self.start(recipient.group(1))
                show = self.w.arguments
            else:
                s.kept()
                show = self.w.reasoning if channel[:1] == ["analysis"] else self.w.content
            end = yield from s.until(_ENDS, show)
            self.w.end_reasoning()
            yield from s.space()
            if end != _START and not (yield from s.match(_START)):
                return
            s.keep(_START)
            parts = []
