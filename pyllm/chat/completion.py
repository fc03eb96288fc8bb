"""Completion of what begins with a slash: commands, options, models, conversations, paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from pyllm.chat.commands import COMMANDS
from pyllm.chat.sampling_options import OPTIONS
from pyllm.errors import PyllmError


class CommandCompleter(Completer):
    """models, conversations: what can be named, as [(name, what it is)]."""

    def __init__(
        self,
        models: Callable[[], Sequence[str]],
        conversations: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._paths = PathCompleter(expanduser=True)
        self._models = models
        self._conversations = conversations

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        name, space, argument = line.partition(" ")
        if not space:
            commands = sorted(COMMANDS.values(), key=lambda one: one.name)
            yield from _matching(name, [(one.name, one.help) for one in commands], prefix_only=True)
            return
        command = COMMANDS.get(name)
        if command is None:
            return
        if command.completes == "path" or (command.completes == "conversation" and "/" in argument):
            yield from self._paths.get_completions(Document(argument, len(argument)), event)
        elif " " not in argument:
            yield from _matching(argument, list(self._words(command.completes)))

    def _words(self, kind: str | tuple[str, ...]) -> Iterator[tuple[str, str]]:
        try:
            if kind == "option":
                yield from ((one.name, f"{one.range}: {one.help}") for one in OPTIONS.values())
            elif kind == "model":
                yield from ((name, "") for name in self._models())
            elif kind == "conversation":
                yield from self._conversations()
            elif kind == "command":
                yield from ((one.name[1:], one.help) for one in COMMANDS.values())
            else:
                yield from ((word, "") for word in kind)
        except PyllmError:
            return  # a catalogue that cannot be read: the command itself will say so


def _matching(typed: str, words: Sequence[tuple[str, str]], prefix_only: bool = False) -> Iterator[Completion]:
    begin = [word for word in words if word[0].startswith(typed)]
    within = [] if prefix_only else [word for word in words if typed in word[0] and word not in begin]
    for word, help in [*begin, *within]:
        yield Completion(word, -len(typed), display_meta=help)
