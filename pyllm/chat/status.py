"""The line that says where one is: model, context, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyllm.chat.state import Answered, Chat

_GAUGE = 10


def gauge(used: int, context: int) -> str:
    """'▰▰▱▱ 12 % of 8192'; the tokens alone where the context is unknown."""
    if not context:
        return f"{used} tokens" if used else ""
    share = min(1.0, used / context)
    filled = max(round(share * _GAUGE), 1 if used else 0)
    return f"{'▰' * filled}{'▱' * (_GAUGE - filled)} {share:.0%} of {context}"


def status(chat: Chat) -> str:
    """Between answers."""
    loaded = chat.loading.done and chat.loading.error is None
    parts = [chat.shown if loaded else f"loading {chat.shown} ..."]
    if loaded:
        parts.append(gauge(chat.used, chat.engine.context))
    if chat.answers and chat.answers[-1].rate:
        parts.append(f"{chat.answers[-1].rate:.0f} tokens/s")
    if chat.attachments:
        parts.append(f"{len(chat.attachments)} attached")
    if chat.constraint is not None:
        parts.append("JSON")
    return " │ ".join(part for part in parts if part)


def live_status(chat: Chat, answers: Sequence[Answered]) -> str:
    """While an answer comes."""
    tokens = sum(one.tokens for one in answers)
    first = answers[0]
    prompt = len(first.prompt.tokens)
    if not tokens:
        waited = time.perf_counter() - first.started
        return (
            f"{chat.shown} │ reading {prompt or 'the'} tokens, {waited:.1f} s │ Ctrl-C stops"
            if waited > 0.3
            else ""
        )
    span = max(one.last for one in answers) - min(one.first for one in answers if one.first)
    rate = f"{(tokens - len(answers)) / span:.0f} tokens/s" if span > 0.2 else ""
    thinking = f"thinking, {tokens} tokens" if first.turn.reasoning and not first.turn.text else ""
    parts = [chat.shown, gauge(prompt + tokens, chat.engine.context), rate, thinking, "Ctrl-C stops"]
    return " │ ".join(part for part in parts if part)
