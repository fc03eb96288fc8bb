"""The tree of the conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.chat.commands.registry import command, whole
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat
    from pyllm.chat.tree import Turn


@command("/fork [N]", "go on from after question N (absent: from here); what is here stays a branch")
def fork(chat: Chat, argument: str) -> None:
    conversation = chat.conversation
    if not conversation.head:
        raise PyllmError("nothing was said yet")
    chat.record({"mark": conversation.head})
    if argument:
        question = conversation.question(whole(argument, "the number of a question"))
        path = conversation.path()
        after = path[path.index(question) : path.index(question) + 2]
        chat.record({"head": after[-1].id}, sync=True)
        chat.used = 0
    chat.show(f"the next message starts a branch after question {len(conversation.questions())}")


@command("/branches [N]", "the branches of the conversation, or go to branch N; they share the cached prompt")
def branches(chat: Chat, argument: str) -> None:
    conversation = chat.conversation
    ends = conversation.ends()
    if not ends:
        raise PyllmError("nothing was said yet")
    if argument:
        number = whole(argument, "the number of a branch")
        if not 1 <= number <= len(ends):
            raise PyllmError(f"expected a branch from 1 to {len(ends)}, got {number}")
        chat.record({"head": ends[number - 1]}, sync=True)
        chat.used = 0
        show_path(chat, last=2)
        return
    here = conversation.path()
    for number, end in enumerate(ends, 1):
        path = conversation.path(end)
        shared = sum(a is b for a, b in zip(path, here, strict=False))
        asked = sum(turn.role == "user" for turn in path)
        fork = sum(turn.role == "user" for turn in path[:shared])
        where = (
            "here"
            if end == conversation.head
            else f"leaves after question {fork}"
            if fork
            else "from the start"
        )
        mark = "*" if end == conversation.head else " "
        own = path[shared:] or path[-2:]
        said = " → ".join(_short(turn) for turn in own[-2:])
        chat.show(f"{mark} {number:>2}  {asked} question{'s' * (asked != 1)}, {where}: {said}")


def show_path(chat: Chat, last: int = 0) -> None:
    """The conversation so far, or the last turns of it, as text."""
    path = chat.conversation.path()
    left_out = max(0, len(path) - last) if last else 0
    if left_out:
        chat.show(f"({left_out} turns before)")
    for turn in path[left_out:]:
        if turn.role == "user":
            lines = turn.text.split("\n")
            chat.show("\n".join(f"> {line}" for line in lines[:12]) + ("\n> ..." if len(lines) > 12 else ""))
        else:
            chat.show_answer(turn.text)


def _short(turn: Turn) -> str:
    text = " ".join(turn.text.split()) or "(no answer)"
    return text if len(text) <= 40 else text[:39] + "…"
