"""Looking at the last answer: speed, reuse, probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyllm.chat.answering import common
from pyllm.chat.commands.registry import command, whole
from pyllm.chat.status import gauge
from pyllm.errors import PyllmError
from pyllm.terminal import printable

if TYPE_CHECKING:
    from pyllm.chat.state import Answered, Chat

_BLOCK = 16  # tokens of a KV block: what is reused is whole blocks
_AROUND = 24  # tokens shown beside a place
# Of a token by its probability: from 256 colours, sure to surprising.
_SHADES = ((0.9, ""), (0.6, "color(150)"), (0.3, "color(220)"), (0.1, "color(208)"), (0.0, "color(203)"))


@command("/stats", "the last answer: time to first token, speeds, cached share, context")
def stats(chat: Chat, argument: str) -> None:
    one = _last(chat)
    done = one.done
    timings = done.timings if done else None
    first = timings.first_token_s if timings else one.first - one.started
    chat.show(f"first token  {first:.3f} s")
    if done is not None:
        usage = done.usage
        share = usage.cached_tokens / usage.prompt_tokens if usage.prompt_tokens else 0.0
        rate = timings.prompt_tokens_per_second if timings else 0.0
        speed = f", the others read at {rate:.1f} tokens/s" if rate else ""
        chat.show(
            f"prompt       {usage.prompt_tokens} tokens, {usage.cached_tokens} cached ({share:.0%}){speed}"
        )
    count = done.usage.completion_tokens if done else one.tokens
    end = f"ended by {done.finish}" if done else "stopped"
    chat.show(f"answer       {count} tokens, {one.rate:.1f} tokens/s, {end}")
    chat.show(f"context      {gauge(chat.used, chat.engine.context)}")
    if counters := chat.engine.stats():
        total, free, cached = (counters.get(f"blocks_{name}", 0) for name in ("total", "free", "cached"))
        chat.show(f"KV cache     {total} blocks of {_BLOCK} tokens: {cached} kept for reuse, {free} free")


@command("/why", "the last answer: which part of the prompt was reused, where it differed, where the time went")
def why(chat: Chat, argument: str) -> None:
    one = _last(chat)
    if one.done is None:
        raise PyllmError("the last answer was stopped: its figures did not come")
    usage, timings = one.done.usage, one.done.timings
    tokens = one.prompt.tokens
    chat.show(
        f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} reused, "
        f"{usage.prompt_tokens - usage.cached_tokens} computed"
    )
    if chat.warm.told and one is chat.answers[0]:
        chat.show(chat.warm.told)
    if tokens:
        _where(chat, one)
    else:
        chat.show("this server does not tell the prompt's tokens: where it differed is not known")
    if timings is not None:
        read = max(0.0, timings.first_token_s - timings.queue_s)
        chat.show("time:")
        if one.prompt.seconds:
            chat.show(f"  {one.prompt.seconds:7.3f} s  template and tokenizer")
        chat.show(f"  {timings.queue_s:7.3f} s  waiting for the engine")
        chat.show(f"  {read:7.3f} s  reading the prompt ({timings.prompt_tokens_per_second:.0f} tokens/s)")
        chat.show(
            f"  {timings.decode_s:7.3f} s  writing {usage.completion_tokens} tokens ({one.rate:.1f} tokens/s)"
        )


def _where(chat: Chat, one: Answered) -> None:
    tokens, before = one.prompt.tokens, one.before
    cached = one.done.usage.cached_tokens if one.done else 0
    if not before:
        chat.show(
            "nothing was computed before in this session" + (": the rest came from elsewhere" if cached else "")
        )
        return
    same = common(tokens, before)
    if same < min(len(tokens), len(before)):
        chat.show(f"it is the same as what was computed before up to token {same}; there it differs:")
        chat.show(f"  before  …{_text(chat, before, same)}")
        chat.show(f"  now     …{_text(chat, tokens, same)}")
    else:
        chat.show(
            f"it goes on exactly where the {len(before)} tokens computed before end"
            if same == len(before)
            else f"all its {len(tokens)} tokens were computed before"
        )
    possible = min(same, len(tokens) - 1) // _BLOCK * _BLOCK
    if cached < possible:
        chat.show(f"up to {possible} tokens could have been reused: the cache had given up some of them")
    elif cached < same:
        chat.show(f"whole blocks of {_BLOCK} tokens are reused, and the last token is always computed")


def _text(chat: Chat, tokens: tuple[int, ...] | list[int], at: int) -> str:
    pieces = [chat.engine.token(token) or "" for token in tokens[max(0, at - 6) : at + _AROUND]]
    head = "".join(pieces[: min(6, at)])
    return repr(head)[1:-1] + "⟦" + repr("".join(pieces[min(6, at) :]))[1:-1] + "⟧"


@command("/tokens [N]", "the last answer coloured by probability, and its N (absent: 8) least certain tokens")
def tokens(chat: Chat, argument: str) -> None:
    from rich.text import Text

    count = whole(argument, "how many tokens", 8)
    one = _last(chat)
    engine = chat.engine
    if not one.logprobs or engine.token(0) is None:
        raise PyllmError("the probabilities of this answer are not known: a server's answer, or one of before")
    text = Text()
    for logprob in one.logprobs:
        p = math.exp(min(0.0, logprob.logprob))
        style = next(style for least, style in _SHADES if p >= least)
        text.append(printable(engine.token(logprob.token_id) or ""), style or None)
    for line in text.split("\n", allow_blank=True):
        chat.show_styled(line)
    key = Text("probability ")
    for least, style in _SHADES:
        key.append(f" {least:.0%}+ ", style or None)
    chat.show_styled(key)
    for place in sorted(range(len(one.logprobs)), key=lambda i: one.logprobs[i].logprob)[: max(0, count)]:
        logprob = one.logprobs[place]
        others = [other for other in logprob.top if other[0] != logprob.token_id]
        said = ", ".join(f"{_quoted(chat, id)} {math.exp(lp):.1%}" for id, lp in others[:3])
        drawn = f"{_quoted(chat, logprob.token_id)} {math.exp(logprob.logprob):.1%}"
        chat.show(f"{place + 1:>5}  {drawn:<24}  instead of {said}")


def _quoted(chat: Chat, token: int) -> str:
    return repr(chat.engine.token(token) or "")


def _last(chat: Chat) -> Answered:
    if not chat.answers:
        raise PyllmError("there is no answer of this session yet")
    return chat.answers[-1]
