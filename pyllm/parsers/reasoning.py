"""Reasoning: what a model writes between two markers before its answer."""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.parsers.stream import Markers, Steps, Stream
from pyllm.parsers.writer import Writer


@dataclass(frozen=True)
class Thinking:
    """start, end: the markers. anywhere: may come more than once, not only first."""

    start: str
    end: str
    anywhere: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.start, self.end)

    def opened_by(self, prompt: str) -> bool:
        """Whether the answer to this prompt begins within the reasoning."""
        return prompt.rstrip().endswith(self.start)

    def begin(self, s: Stream, w: Writer, inside: bool) -> Steps[None]:
        """The reasoning that the answer begins with, if it does."""
        s.keep()
        yield from s.space()
        started = yield from s.match(self.start)
        if started or inside:
            s.kept()
            yield from self.read(s, w)
        elif back := s.kept():
            w.content(back)

    def read(self, s: Stream, w: Writer) -> Steps[None]:
        """What follows the opening marker."""
        yield from s.until(Markers(self.end), w.reasoning)
        w.end_reasoning()
        yield from s.space()


THINKING = {
    "think": Thinking("<think>", "</think>"),
    "mistral": Thinking("[THINK]", "[/THINK]"),
    "gemma4": Thinking("<|channel>thought", "<channel|>", anywhere=True),
    "cohere": Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    "seed": Thinking("<seed:think>", "</seed:think>"),
    "minimax-m3": Thinking("<mm:think>", "</mm:think>"),
    "apertus": Thinking("<|inner_prefix|>", "<|inner_suffix|>"),
    "apriel": Thinking("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
}
