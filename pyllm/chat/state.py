"""One chat as it goes: the conversation and its file, the engine, and what the person has set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyllm.chat.output import colours
from pyllm.chat.warm import Warm
from pyllm.errors import PyllmError
from pyllm.terminal import printable

if TYPE_CHECKING:
    from pyllm.chat.engine import Done, Engine, Prompt
    from pyllm.chat.loading import Loading
    from pyllm.chat.transcript import Transcript
    from pyllm.chat.tree import Conversation, Turn
    from pyllm.completion import Logprob
    from pyllm.constraint import Constraint
    from pyllm.sampling import SamplingParams

THINK = ("show", "hide", "off")


def shown(model: str) -> str:
    """A model's name for people: of a path the last part."""
    return model.rsplit("/", 1)[-1].removesuffix(".gguf")


@dataclass
class Answered:
    """One answer of this session. started, first, last: time.perf_counter() seconds; first 0: nothing came."""

    turn: Turn
    prompt: Prompt
    started: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    logprobs: list[Logprob] = field(default_factory=list)
    done: Done | None = None
    error: PyllmError | None = None  # that ended it
    before: tuple[int, ...] = ()  # of the tokens computed earlier in this session, those most like the prompt

    @property
    def rate(self) -> float:
        """Tokens per second after the first."""
        if self.done and self.done.timings and self.done.timings.decode_tokens_per_second:
            return self.done.timings.decode_tokens_per_second
        return (
            (self.tokens - 1) / (self.last - self.first) if self.tokens > 1 and self.last > self.first else 0.0
        )


@dataclass
class Attachment:
    """A file's text that goes with the next message."""

    name: str
    text: str
    tokens: int | None


@dataclass
class Chat:
    """params: what SamplingParams a model gets, by its name and the values chosen over its own defaults.
    prepare: what makes the engine of a model, once all that can be known before was checked. models: whose
    names can be given. tell: one message to the person.
    choose: a question to the person, answered in a word; "" for none."""

    conversation: Conversation
    transcript: Transcript | None
    loading: Loading
    params: Callable[[str, Mapping[str, Any]], SamplingParams]
    prepare: Callable[[str], Callable[[], Engine]]
    models: Callable[[Chat], list[str]]
    tell: Callable[[str], None]
    choose: Callable[[str], str] = lambda question: ""
    warm: Warm = field(default_factory=Warm)
    chosen: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    raw: bool = False
    silent: bool = False  # answers are not shown as they come
    think: str = "show"
    terminal: bool = True
    constraint: Constraint | None = None
    attachments: list[Attachment] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)  # of this session, the last one last
    computed: list[tuple[int, ...]] = field(default_factory=list)  # prompts with their answers
    used: int = 0  # tokens of the context after the last answer
    draft: str = ""  # stands in the next prompt, to be edited
    parent: int | None = None  # where the draft's turn goes, when not after the head
    warned: bool = False  # of a context that is getting full
    left: bool = False

    @property
    def engine(self) -> Engine:
        """Waits until the model has loaded; raises what stopped it."""
        engine = self.loading.wait()
        if engine is None:
            raise PyllmError("the model is not there")
        return engine

    @property
    def shown(self) -> str:
        """The model's name for people."""
        return shown(self.model) or "the server's model"

    def record(self, record: Mapping[str, Any], sync: bool = False) -> None:
        """Changes the conversation, and keeps that it was changed."""
        self.conversation.apply(record)
        if self.transcript is not None:
            self.transcript.append(record, sync)

    def end(self) -> None:
        """The conversation onto the disk, the engine closed. One that is still loading cannot be stopped: then
        the process ends under it."""
        self.warm.leave(self)
        if self.transcript is not None:
            self.transcript.close()
        self.loading.end()

    def begin_anew(self) -> None:
        """An empty conversation with the same system message, in a file of its own."""
        from pyllm.chat import store
        from pyllm.chat.tree import Conversation

        system = self.conversation.system
        self.go_on_with(Conversation(), store.create(self.tell) if self.transcript is not None else None)
        self.record({"model": self.model})
        if system is not None:
            self.record({"system": system})

    def go_on_with(self, conversation: Conversation, transcript: Transcript | None) -> None:
        """Another conversation in the place of this one."""
        self.warm.leave(self)
        if self.transcript is not None:
            self.transcript.close()
        self.warm = Warm(transcript.path if transcript else None)
        self.conversation, self.transcript = conversation, transcript
        self.answers, self.parent, self.draft, self.used, self.warned = [], None, "", 0, False
        self.attachments.clear()

    def sampling(self, **more: Any) -> SamplingParams:
        """What the next answer is sampled with."""
        if self.constraint is not None:
            more["constraint"] = self.constraint
        return self.params(self.model, {**self.chosen, **more})

    def take_warm(self, engine: Engine) -> Engine:
        """Gives an engine what was kept of the conversation's keys and values."""
        if tokens := self.warm.take(engine):
            self.computed.append(tuple(tokens))
        return engine

    def read_ahead(self) -> None:
        """Lets the model read the conversation while the person types."""
        self.engine.warm(self.conversation.messages())

    def show(self, text: str = "") -> None:
        """What a command prints; answers alone go into a redirected standard output."""
        out = sys.stdout if sys.stdout.isatty() else sys.stderr
        print(printable(text), file=out, flush=True)

    def show_answer(self, text: str) -> None:
        """An answer of before, as it looked then."""
        from pyllm.chat.answering import new_display

        display = new_display(self, 1)
        display.add(text, "")
        display.end()

    def show_styled(self, line: Any) -> None:
        """rich's text: its controls must be gone already."""
        from pyllm.chat.output import text_line

        print(text_line(line) if colours() else line.plain, flush=True)
