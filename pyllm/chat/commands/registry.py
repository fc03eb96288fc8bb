"""The one list of commands. A command is a function with a line of help."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat

Run = Callable[["Chat", str], None]


@dataclass(frozen=True)
class Command:
    """usage: with its arguments. completes: what its argument is: "option", "model", "path" or words."""

    name: str
    usage: str
    help: str
    run: Run
    completes: str | tuple[str, ...]


COMMANDS: dict[str, Command] = {}


def command(usage: str, help: str, completes: str | tuple[str, ...] = ()) -> Callable[[Run], Run]:
    """Adds a command, called like the first word of `usage`; it gets the rest of the line."""

    def add(run: Run) -> Run:
        name = usage.split()[0]
        COMMANDS[name] = Command(name, usage, help, run, completes)
        return run

    return add


def find(name: str) -> Command:
    """By name or by a beginning that only one has. PyllmError suggests the nearest."""
    if found := COMMANDS.get(name):
        return found
    begin = [command for command in COMMANDS.values() if command.name.startswith(name)]
    if len(begin) == 1 and len(name) > 1:
        return begin[0]
    near = [one.name for one in begin] or difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "/help lists them"
    raise PyllmError(f"unknown command {name[:40]}: {hint}")


def whole(argument: str, what: str, default: int | None = None) -> int:
    """A number argument. PyllmError says what was expected."""
    if not argument and default is not None:
        return default
    try:
        return int(argument)
    except ValueError:
        raise PyllmError(
            f"expected {what}, got {argument[:40]!r}" if argument else f"expected {what}"
        ) from None
