"""Questions and answers: a new turn, another answer, several to pick from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.chat.answering import StoppedError, answer, wait_for_engine
from pyllm.chat.context import fit, warn
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Answered, Chat


def ask(chat: Chat, text: str) -> Answered | None:
    """Adds a question and answers it. None when the person stopped it before anything came.

    PyllmError when it cannot be answered: then it is no part of the conversation.
    """
    text = with_attachments(chat, text)
    conversation = chat.conversation
    stood = conversation.head
    parent = stood if chat.parent is None else chat.parent
    if parent and conversation.turns[parent].role == "user":
        parent = conversation.turns[parent].parent  # it was never answered
    engine = wait_for_engine(chat)
    prompt = fit(chat, engine, parent, text)
    if prompt is None:
        return None
    chat.record({"turn": conversation.next_id(), "parent": parent, "role": "user", "text": text}, sync=True)
    try:
        found = answer(chat, prompt)
    except (PyllmError, StoppedError):
        chat.record({"head": stood}, sync=True)
        raise
    finally:
        chat.parent = None
    chat.attachments.clear()
    warn(chat)
    return found[0]


def answer_again(chat: Chat, n: int = 1) -> list[Answered]:
    """Another answer, or n of them, to the last question."""
    question, stood = last_question(chat), chat.conversation.head
    engine = wait_for_engine(chat)
    turn = chat.conversation.turns[question]
    prompt = fit(chat, engine, turn.parent, turn.text)
    if prompt is None:
        return []
    chat.record({"head": question})
    try:
        found = answer(chat, prompt, n)
    except (PyllmError, StoppedError):
        chat.record({"head": stood}, sync=True)
        raise
    warn(chat)
    return found


def last_question(chat: Chat) -> int:
    """The turn of the last question on the path."""
    questions = chat.conversation.questions()
    if not questions:
        raise PyllmError("nothing was asked yet")
    return questions[-1].id


def with_attachments(chat: Chat, text: str) -> str:
    """The message with the attached files' texts before it."""
    parts = []
    for one in chat.attachments:
        fence = "```"
        while fence in one.text:
            fence += "`"
        end = "" if one.text.endswith("\n") else "\n"
        parts.append(f"{one.name}:\n{fence}\n{one.text}{end}{fence}\n")
    return "\n".join([*parts, text])
