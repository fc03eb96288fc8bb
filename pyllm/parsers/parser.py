"""A model's text in pieces to deltas: reasoning first, then content with tool calls in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto

from pyllm.parsers.delta import Delta
from pyllm.parsers.forced import Written
from pyllm.parsers.reasoning import Thinking
from pyllm.parsers.stream import Markers, Steps, Stream
from pyllm.parsers.tools import Tools
from pyllm.parsers.writer import Writer, call_id


class Outcome(Enum):
    """What became of reading a call."""

    NONE = auto()  # it is none: what was taken is content
    WHOLE = auto()
    BROKEN = auto()  # its arguments are not well formed; the stream stands where they stop being so


class Format(ABC):
    """One way to write tool calls. A subclass states where calls may begin and reads them.

    markers: begin a call wherever they come. bare: begin one at the beginning of a line; any text has these,
    so only calls of known tools count. quotable: the markers are words that code may show, so in code they are
    content. texts: further texts that matter; control tokens in them, and in the markers, must not be left out.
    """

    markers: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    quotable = False
    texts: tuple[str, ...] = ()
    written: Written | None = None  # for forced calls; None: they are generic JSON
    new_id: Callable[[], str] = staticmethod(call_id)

    def __init__(self, stream: Stream, writer: Writer, tools: Tools) -> None:
        self.s = stream
        self.w = writer
        self.tools = tools

    @abstractmethod
    def read(self, marker: str) -> Steps[None]:
        """Reads what follows a marker, which has been taken. What the stream keeps in the end is given back."""

    def start(self, name: str, id: str = "") -> None:
        """It is a call: nothing before here is given back any more."""
        self.s.kept()
        self.w.start(name, id)

    def close(self, outcome: Outcome, *ends: str) -> Steps[None]:
        """The end of a call: what is broken runs on to the next of `ends` as arguments."""
        if outcome is Outcome.BROKEN:
            yield from self.s.until(Markers(*ends), self.w.arguments)
        elif outcome is Outcome.WHOLE:
            if not self.s.keeping:
                self.s.keep()
            yield from self.s.space()
            while (end := (yield from self.s.match("}", "]", *ends))) in ("}", "]"):
                self.s.keep()  # of the list, or one too many
                yield from self.s.space()
            if end:
                self.s.kept()


class Parser:
    """Feed it an answer's text as it comes; it gives the deltas that are certain by then.

    format: how calls are written, None when none are looked for. thinking: how reasoning is written. tools: the
    request's. inside: the prompt has opened the reasoning. new_id: makes ids of calls.
    """

    def __init__(
        self,
        format: type[Format] | None,
        thinking: Thinking | None,
        tools: Tools,
        inside: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._stream = Stream()
        self._writer = Writer(new_id or (format.new_id if format else call_id))
        self._format = format(self._stream, self._writer, tools) if format else None
        self._tools = tools
        self._thinking = thinking
        self._inside = inside
        self._steps = self._run()
        self._done = False
        self.called = False  # a call has been read to its end, and what follows is no other one at once

    def feed(self, text: str) -> list[Delta]:
        """More of the answer."""
        self._stream.feed(text)
        self._step()
        return self._writer.drain()

    def finish(self) -> list[Delta]:
        """The answer has ended."""
        self._stream.ended = True
        self._step()
        self._writer.end()
        return self._writer.drain()

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self._writer.calls

    def _step(self) -> None:
        if not self._done:
            try:
                next(self._steps)
            except StopIteration:
                self._done = True

    def _run(self) -> Steps[None]:
        s, w, format, thinking = self._stream, self._writer, self._format, self._thinking
        if thinking:
            yield from thinking.begin(s, w, self._inside)
        calls = (*format.markers, *format.bare) if format else ()
        thoughts = (thinking.start,) if thinking and thinking.anywhere else ()
        markers = Markers(*calls, *thoughts)
        while marker := (yield from s.until(markers, w.content)):
            if thinking and marker in thoughts:
                yield from thinking.read(s, w)
            elif format and self._counts(format, marker):
                s.keep(marker)
                yield from format.read(marker)
                self.called = self.called or w.calls > 0
                if back := s.kept():
                    w.content(back)
            else:
                w.content(marker)

    def _counts(self, format: Format, marker: str) -> bool:
        code = self._writer.code
        if marker in format.bare:
            return code.at_line_start and not code.in_code
        return not (format.quotable and code.in_code)
