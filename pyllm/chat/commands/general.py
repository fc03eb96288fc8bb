"""Help and leaving."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pyllm.chat.commands.registry import COMMANDS, command, find

if TYPE_CHECKING:
    from pyllm.chat.state import Chat

_KEYS = """\
Alt-Enter, or Shift-Enter where the terminal tells, begins a new line; so does Enter within \"\"\" ... \"\"\".
Ctrl-G opens the text in $EDITOR, Ctrl-R searches what was typed before, Tab completes.
Ctrl-C stops an answer and keeps what came; once more at an empty prompt leaves. Ctrl-D leaves.
A message that begins with / can be sent with a space before it."""


@command("/help [COMMAND]", "this list, or one command", "command")
def help(chat: Chat, argument: str) -> None:
    if argument:
        one = find(argument if argument.startswith("/") else f"/{argument}")
        chat.show(f"{one.usage}\n  {one.help}")
        return
    width = max(len(one.usage) for one in COMMANDS.values())
    for one in sorted(COMMANDS.values(), key=lambda one: one.name):
        chat.show(f"{one.usage:<{width}}  {one.help}")
    chat.show(f"\n{_KEYS}")


@command("/exit", "leave; `pyllm chat -c` continues")
def exit(chat: Chat, argument: str) -> None:
    chat.left = True


@command(
    "/clear", "a new conversation on an empty screen; the one before stays saved (Ctrl-L: the screen alone)"
)
def clear(chat: Chat, argument: str) -> None:
    before = chat.transcript
    chat.begin_anew()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        sys.stdout.write("\x1b[H\x1b[2J\x1b[3J")
        sys.stdout.flush()
    if before is not None and before.begun:
        chat.show(f"a new conversation; /load {before.id} goes back to the one before")
    else:
        chat.show("a new conversation")
