"""Usage and timings of a request over all its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.server.protocol import PromptTokensDetails, Timings, Usage

if TYPE_CHECKING:
    from pyllm.completion import Completion
    from pyllm.server.exchange import Exchange


class Tally:
    """Adds up completions, and tells the exchange."""

    def __init__(self, exchange: Exchange, prompts: int) -> None:
        self._exchange = exchange
        self._cached = [0] * prompts
        self._longest: Completion | None = None

    def first_token(self, at: float) -> None:
        """To be called when anything has come; at: when the first of it came, by time.perf_counter()."""
        if self._exchange.first_token_s is None:
            self._exchange.first_token_s = at - self._exchange.started

    def add(self, job: int, completion: Completion) -> None:
        self._cached[job] = completion.usage.cached_tokens
        self._exchange.cached_tokens = sum(self._cached)
        self._exchange.completion_tokens += completion.usage.completion_tokens
        if self._longest is None or completion.timings.decode_s >= self._longest.timings.decode_s:
            self._longest = completion
            self._exchange.queue_s = completion.timings.queue_s

    def usage(self) -> Usage:
        e = self._exchange
        return Usage(
            e.prompt_tokens,
            e.completion_tokens,
            e.prompt_tokens + e.completion_tokens,
            PromptTokensDetails(e.cached_tokens),
        )

    def timings(self) -> Timings:
        """Of the answer that took longest."""
        e = self._exchange
        if self._longest is None:
            return Timings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        t = self._longest.timings
        return Timings(
            queue_s=round(t.queue_s, 6),
            prompt_s=round(max(0.0, t.first_token_s - t.queue_s), 6),
            first_token_s=round(t.first_token_s, 6),
            decode_s=round(t.decode_s, 6),
            prompt_tokens_per_second=round(t.prompt_tokens_per_second, 2),
            decode_tokens_per_second=round(t.decode_tokens_per_second, 2),
            cached_share=round(e.cached_tokens / e.prompt_tokens, 4) if e.prompt_tokens else 0.0,
        )
