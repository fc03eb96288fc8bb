"""What a parser gives: pieces of content, of reasoning, and of tool calls."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Content:
    """Text for the user."""

    text: str


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class CallStart:
    """A tool call begins; `index` counts the answer's calls from 0. Comes once a call, before its arguments."""

    index: int
    id: str
    name: str


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class CallArguments:
    """The next piece of a call's arguments: JSON text once all pieces are put together."""

    index: int
    text: str


Delta: TypeAlias = Content | Reasoning | CallStart | CallArguments


@dataclass
class Call:
    """A whole tool call; `arguments` is JSON text, or what the model wrote where that was broken or cut off."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Message:
    """A whole answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)


def merge(deltas: Iterable[Delta]) -> Message:
    """The message that the deltas make."""
    message = Message()
    for delta in joined(deltas):
        if isinstance(delta, Content):
            message.content += delta.text
        elif isinstance(delta, Reasoning):
            message.reasoning += delta.text
        elif isinstance(delta, CallStart):
            message.calls.append(Call(delta.id, delta.name))
        else:
            message.calls[delta.index].arguments += delta.text
    return message


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """Neighbours of one kind as one delta."""
    found: list[Delta] = []
    for (kind, index), group in itertools.groupby(deltas, _kind):
        if kind is CallStart:
            found.extend(group)
        else:
            text = "".join([delta.text for delta in group if not isinstance(delta, CallStart)])
            if kind is CallArguments:
                found.append(CallArguments(index, text))
            else:
                found.append(Content(text) if kind is Content else Reasoning(text))
    return found


def _kind(delta: Delta) -> tuple[type, int]:
    return type(delta), delta.index if isinstance(delta, CallStart | CallArguments) else 0
