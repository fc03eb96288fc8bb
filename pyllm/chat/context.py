"""The context is finite: a warning before it is full, a choice when it is, never a silent cut."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.engine import Engine, Prompt
    from pyllm.chat.state import Chat
    from pyllm.chat.tree import Turn

WARN = 0.8  # of the context
_ANSWER = 256  # tokens that an answer should have room for
_SUMMARISE = (
    "Summarise our conversation so far in at most 150 words, so that it can go on from your summary alone: "
    "the facts, names, decisions and open questions."
)


def fit(chat: Chat, engine: Engine, parent: int, text: str) -> Prompt | None:
    """The prompt of a question after the turn `parent`. When the context has no room for it, the person chooses
    what to do; None: not to send it."""
    think = chat.think != "off"
    prompt = engine.prompt(chat.conversation.messages(parent, text), think)
    if not chat.terminal or not engine.context or not prompt.known or _fits(engine, prompt):
        return prompt
    have, context = len(prompt.tokens), engine.context
    turns = _to_drop(chat, engine, parent, text)
    if not turns:
        raise PyllmError(f"the message alone makes a prompt of {have} tokens, the context has {context}")
    count = sum(turn.role == "user" for turn in turns)
    oldest = f"{count} turns" if count > 1 else "turn"
    chat.tell(
        f"the context is full: with this message the prompt has {have} of {context} tokens.\n"
        f"  d  drop the oldest {oldest} for the model; the transcript keeps all\n"
        f"  s  put a summary in their place\n"
        f"  Enter  do not send it"
    )
    while (choice := chat.choose("d, s or Enter> ").strip().lower()) not in ("d", "s", ""):
        pass
    summary = _summary(chat, engine, turns) if choice == "s" else ""
    if choice == "" or (choice == "s" and not summary):
        chat.draft = "" if chat.attachments else text
        return None
    chat.record({"cut": turns[-1].id, "summary": summary}, sync=True)
    chat.warned = False
    prompt = engine.prompt(chat.conversation.messages(parent, text), think)
    if len(prompt.tokens) >= engine.context:
        raise PyllmError(f"with the summary the prompt still has {len(prompt.tokens)} of {context} tokens")
    return prompt


def warn(chat: Chat) -> None:
    """Says once that the context is getting full."""
    context = chat.engine.context
    if not context or chat.used < WARN * context:
        chat.warned = False
    elif not chat.warned and chat.terminal:
        chat.warned = True
        left = max(0, context - chat.used)
        chat.tell(
            f"the context is {chat.used / context:.0%} full: {left} tokens are left; then you can drop the "
            "oldest turns or have them summarised"
        )


def _fits(engine: Engine, prompt: Prompt) -> bool:
    return engine.context - len(prompt.tokens) >= min(_ANSWER, engine.context // 8)


def _to_drop(chat: Chat, engine: Engine, parent: int, text: str) -> list[Turn]:
    """The oldest turns without which the prompt takes at most half the context, or as little as possible."""
    conversation = chat.conversation
    sent = conversation.sent(parent)
    ends = [i for i, turn in enumerate(sent) if turn.role == "assistant"]
    system = [m for m in conversation.messages(parent, text) if m["role"] == "system"]
    for i in ends:
        rest = [{"role": turn.role, "content": turn.text} for turn in sent[i + 1 :]]
        prompt = engine.prompt([*system, *rest, {"role": "user", "content": text}])
        if len(prompt.tokens) <= engine.context // 2 or (i == ends[-1] and _fits(engine, prompt)):
            return sent[: i + 1]
    return []


def _summary(chat: Chat, engine: Engine, turns: list[Turn]) -> str:
    """The model's own summary of turns, shown as it comes; "" when it was stopped or failed."""
    from pyllm.chat.answering import show_only

    cut = chat.conversation.cut(turns[-1].id)
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    if cut and cut[1]:
        said = [
            {"role": "user", "content": f"(Before this: {cut[1]})"},
            {"role": "assistant", "content": "Yes."},
            *said,
        ]
    room = min(_ANSWER, max(32, engine.context // 8))
    while True:
        prompt = engine.prompt([*said, {"role": "user", "content": _SUMMARISE}], think=False)
        if len(prompt.tokens) + room <= engine.context:
            break
        if len(said) <= 2:
            chat.tell("the turns are too long to be summarised within the context: drop them instead")
            return ""
        said = said[2:]
        chat.tell("the oldest turn does not fit beside the others: the summary leaves it out")
    started = time.perf_counter()
    chat.tell("summary:")
    summary = show_only(chat, engine, prompt, room)
    if summary:
        chat.tell(f"summarised in {time.perf_counter() - started:.1f} s")
    return summary
