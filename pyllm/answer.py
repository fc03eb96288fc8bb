"""From an engine's events to text: one sequence's tokens, detokenized, watched for stop strings, timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.completion import Completion, Logprob, Piece, Timings, Usage
from pyllm.stop import StopMatcher

if TYPE_CHECKING:
    from pyllm import _core
    from pyllm.sampling import SamplingParams
    from pyllm.tokenizer import Tokenizer


class Answer:
    """One sequence as it grows. `started`: when it was asked for, in time.perf_counter() seconds."""

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer,
        index: int,
        prompt_tokens: int,
        started: float,
        load_s: float,
    ) -> None:
        self._params = params
        self._detokenizer = tokenizer.detokenizer(visible=params.visible_tokens)
        self._stop = StopMatcher(params.stop)
        self._index = index
        self._prompt_tokens = prompt_tokens
        self._started = started
        self._load_s = load_s
        self._queue_s = 0.0
        self._tokens: list[int] = []
        self._logprobs: list[Logprob] = []
        self._text: list[str] = []
        self._shown = 0  # tokens that a piece has carried
        self._first = self._last = 0.0
        self._cut = False
        self.completion: Completion | None = None  # once it has ended

    @property
    def tokens(self) -> int:
        """How many it has."""
        return len(self._tokens)

    def cut(self) -> None:
        """What has come is all of it: its next event ends it, as a stop token does."""
        self._cut = True

    def add(self, event: _core.Event, now: float) -> Piece | None:
        """Takes the sequence's next event; the piece it gives, if any."""
        token, reason, text = event.token, event.finish_reason, ""
        if self._cut:
            reason = "stop"
        if token is not None:
            if not self._first:
                self._first, self._queue_s = now, event.queue_s
            self._last = now
            # The token that ends the answer is no part of it.
            if reason != "stop":
                text = self._take(token, event)
        ended = reason is not None or self._stop.matched is not None
        if ended and self._stop.matched is None:
            text += self._pass(self._detokenizer.flush()) + self._stop.flush()
        if text:
            self._text.append(text)
        if ended:
            self.completion = self._complete(event)
        elif not text:
            return None
        shown, self._shown = self._shown, len(self._tokens)
        return Piece(
            text,
            tuple(self._tokens[shown:]),
            tuple(self._logprobs[shown:]) if self._params.logprobs else None,
            self._index,
            self.completion,
        )

    def _take(self, token: int, event: _core.Event) -> str:
        self._tokens.append(token)
        if self._params.logprobs:
            self._logprobs.append(Logprob(token, event.logprob, tuple(event.top_logprobs)))
        return self._pass(self._detokenizer.push(token))

    def _pass(self, text: str) -> str:
        return text if len(self._tokens) <= self._params.min_tokens else self._stop.push(text)

    def _complete(self, event: _core.Event) -> Completion:
        reason, detail = event.finish_reason or "", event.detail
        if self._cut or self._stop.matched is not None:
            reason, detail = "stop", self._stop.matched or ""
        tokens, cached = len(self._tokens), event.cached_tokens
        decode_s = self._last - self._first
        first_s = self._first - self._started if self._first else 0.0
        prompt_s = first_s - self._queue_s
        computed = self._prompt_tokens - cached
        return Completion(
            text="".join(self._text),
            token_ids=tuple(self._tokens),
            finish_reason=reason,
            usage=Usage(self._prompt_tokens, tokens, cached),
            timings=Timings(
                load_s=self._load_s,
                queue_s=self._queue_s,
                first_token_s=first_s,
                decode_s=decode_s,
                prompt_tokens_per_second=computed / prompt_s if prompt_s > 0 else 0.0,
                decode_tokens_per_second=(tokens - 1) / decode_s if decode_s > 0 and tokens > 1 else 0.0,
            ),
            logprobs=tuple(self._logprobs) if self._params.logprobs else None,
            index=self._index,
            finish_detail=detail,
        )
