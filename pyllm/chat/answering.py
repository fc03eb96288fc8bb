"""One answer, or several candidates, from the question to the last token: shown and kept as it comes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pyllm.chat.interrupts import interrupts, keys
from pyllm.chat.output import Display, Nowhere, Plain, Rendered, colours
from pyllm.chat.state import Answered, Chat
from pyllm.chat.status import live_status
from pyllm.errors import PyllmError
from pyllm.terminal import cut_short

if TYPE_CHECKING:
    from pyllm.chat.engine import Engine, Part, Prompt

_TICK_S = 0.05
_ALTERNATIVES = 4  # of each token, for /tokens


class StoppedError(Exception):
    """Ctrl-C, before anything came."""


def wait_for_engine(chat: Chat) -> Engine:
    """The engine; on a terminal it says what is waited for. StoppedError by Ctrl-C."""
    if chat.loading.done or not chat.terminal:
        return _named(chat)
    with interrupts() as pressed:
        told = False
        started = time.perf_counter()
        while not chat.loading.done:
            chat.loading.wait(_TICK_S)
            if pressed.came:
                raise StoppedError
            if not told and time.perf_counter() - started > 0.3:
                told = True
                chat.tell(f"loading {chat.shown} ...")
    return _named(chat)


def _named(chat: Chat) -> Engine:
    """The engine; a server's choice of model is known now."""
    engine = chat.engine
    if not chat.model:
        chat.model = engine.name
        chat.record({"model": chat.model})
    return engine


def answer(chat: Chat, prompt: Prompt, n: int = 1) -> list[Answered]:
    """Answers the question where the conversation stands. What came before Ctrl-C, or before a failure, stays.

    PyllmError when nothing came; then the conversation is as it was.
    """
    engine = chat.engine
    question = chat.conversation.head
    looked_at = chat.terminal and engine.token(0) is not None
    more = {"logprobs": True, "top_logprobs": _ALTERNATIVES} if looked_at else {}
    params = chat.sampling(n=n, **more)
    started = time.perf_counter()
    stream = engine.start(prompt, params, frozenset(chat.chosen))
    answers: list[Answered] = []
    before = _most_alike(chat, prompt)
    for _ in range(n):
        chat.record(
            {"turn": chat.conversation.next_id(), "parent": question, "role": "assistant", "model": chat.model}
        )
        turn = chat.conversation.turns[chat.conversation.head]
        answers.append(Answered(turn, prompt, started, before=before))
    error: PyllmError | None = None
    display = new_display(chat, n)
    stopped = False
    try:
        with interrupts() as pressed, keys(shown=False):
            try:
                while any(one.done is None for one in answers):
                    if pressed.came:
                        stopped = True
                        break
                    _take(chat, stream.next(_TICK_S), answers, display)
                    display.refresh(live_status(chat, answers))
            except PyllmError as failed:
                error = failed
            finally:
                stream.close()
                display.end()
    finally:  # also when the terminal has gone, or SIGTERM came
        for one in answers:
            finish = one.done.finish if one.done else "stopped" if stopped else "broken"
            chat.record({"end": one.turn.id, "finish": finish}, sync=True)
    kept = [one for one in answers if one.turn.text or one.turn.reasoning or (one.done and not error)]
    if not kept:
        chat.record({"head": question}, sync=True)
        if error:
            raise error
        raise StoppedError
    for one in kept:
        one.error = error
        _account(chat, one)
    if error and chat.terminal:
        chat.tell(f"{error}\nWhat came of the answer was kept.")
    chat.record({"head": kept[0].turn.id}, sync=True)
    chat.answers += kept
    _tell_end(chat, kept, stopped)
    return kept


def _take(chat: Chat, parts: list[Part], answers: list[Answered], display: Display) -> None:
    now = time.perf_counter()
    came: dict[int, tuple[str, str]] = {}
    for part in parts:
        one = answers[part.answer]
        text, reasoning = came.get(part.answer, ("", ""))
        came[part.answer] = (text + part.text, reasoning + part.reasoning)
        if part.tokens:
            one.first = one.first or now
            one.last = now
        one.tokens += part.tokens
        one.logprobs += part.logprobs
        one.done = part.done or one.done
    for number, (text, reasoning) in came.items():
        if text or reasoning:
            record = {"add": answers[number].turn.id, "text": text}
            chat.record({**record, "reasoning": reasoning} if reasoning else record)
            display.add(text, reasoning, number)


def new_display(chat: Chat, n: int) -> Display:
    """Where n answers go."""
    if chat.silent:
        return Nowhere()
    think = chat.think == "show" and chat.terminal
    fancy = sys.stdout.isatty() and _capable()
    if n > 1:
        from pyllm.chat.columns import Columns, Silent

        return Columns(n) if fancy else Silent(n)
    return Rendered(think, colours()) if fancy and not chat.raw and not chat.constraint else Plain(think)


def _capable() -> bool:
    import os

    return os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _most_alike(chat: Chat, prompt: Prompt) -> tuple[int, ...]:
    return max(chat.computed, key=lambda tokens: common(tokens, prompt.tokens), default=())


def common(a: tuple[int, ...] | list[int], b: tuple[int, ...] | list[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def _account(chat: Chat, one: Answered) -> None:
    """What the context holds now, and what /why compares the next prompt with."""
    usage = one.done.usage if one.done else None
    prompt_tokens = usage.prompt_tokens if usage else len(one.prompt.tokens)
    chat.used = prompt_tokens + (usage.completion_tokens if usage else one.tokens)
    ids = one.done.token_ids if one.done else tuple(logprob.token_id for logprob in one.logprobs)
    if one.prompt.tokens:
        chat.computed = [*chat.computed[-31:], (*one.prompt.tokens, *ids)]


def _tell_end(chat: Chat, kept: list[Answered], stopped: bool) -> None:
    if stopped:
        chat.tell("stopped")
        return
    if chat.silent:
        return  # the document says it
    cut = next((one.done for one in kept if one.done and one.done.finish == "length"), None)
    if cut is not None:
        by_option = cut.detail in ("", "max_tokens")
        more = " (/set max_tokens N changes it)" if by_option and chat.terminal else ""
        chat.tell(cut_short(cut.usage.completion_tokens, cut.detail) + more)


def show_only(chat: Chat, engine: Engine, prompt: Prompt, max_tokens: int) -> str:
    """An answer that is shown and no part of the conversation; "" when Ctrl-C stopped it."""
    params = chat.params(chat.model, {**chat.chosen, "max_tokens": max_tokens, "n": 1})
    stream = engine.start(prompt, params, frozenset({*chat.chosen, "max_tokens"}))
    display = new_display(chat, 1)
    text = ""
    done = False
    with interrupts() as pressed, keys(shown=False):
        try:
            while not done and not pressed.came:
                for part in stream.next(_TICK_S):
                    text += part.text
                    done = done or part.done is not None
                    display.add(part.text, "")
                display.refresh("Ctrl-C stops")
        finally:
            stream.close()
            display.end()
    return text.strip() if done else ""
