"""Where a model shows code, a tool call's marker is an example and no call."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")
_LINE = 200  # characters of a line that are looked at


class CodeBlocks:
    """Follows content as it is shown. `in_code`: within a fenced block or right after a backtick."""

    def __init__(self) -> None:
        self._fence = ""  # that is open
        self._line = ""

    def show(self, text: str) -> None:
        """More content."""
        *ended, last = text.split("\n")
        for line in ended:
            self._end(self._line + line[:_LINE])
            self._line = ""
        room = _LINE - len(self._line)
        self._line += last[:room]
        if len(last) > room:
            self._line = self._line[:-1] + last[-1]

    @property
    def in_code(self) -> bool:
        return bool(self._fence) or self._line.endswith("`")

    @property
    def at_line_start(self) -> bool:
        return not self._line.strip()

    def _end(self, line: str) -> None:
        found = _FENCE.match(line)
        if not found:
            return
        fence, rest = found.groups()
        if not self._fence:
            self._fence = fence
        elif fence.startswith(self._fence) and not rest.strip():
            self._fence = ""
