"""What a request gives back: whole (Completion) or as it comes (Piece)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Logprob:
    """Natural logarithms of the model's own probabilities, before any sampling parameter."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), the most probable first


@dataclass(frozen=True)
class Usage:
    """Tokens. `cached_tokens` of the prompt were not computed: another request had the same beginning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds: `load_s` opening the model; `queue_s` from the call to the first step that computed some of the
    prompt; `first_token_s` from the call to the first token; `decode_s` from there to the last one.

    The prompt's rate counts computed tokens only, the decode's those after the first; 0 where there were none.
    """

    load_s: float = 0.0
    queue_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0
    prompt_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0


@dataclass(frozen=True)
class Completion:
    """An answer.

    `finish_reason`: "stop" or "length"; `finish_detail` says more: the stop string that was met ("" for a stop
    token or the end of text), or what was used up: "max_tokens", "context" or "kv_pool".
    `token_ids` and `text` do not hold the token or the string that ended the answer; tokens that hold the
    beginning of a stop string are in `token_ids`.
    `index`: which of a prompt's n answers. `logprobs`: one per token of `token_ids` when asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timings: Timings = Timings()
    logprobs: tuple[Logprob, ...] | None = None
    index: int = 0
    finish_detail: str = ""


class Piece(str):
    """A piece of streamed text that knows its tokens.

    Each answer ends with one piece that has a `finish_reason` and the whole `completion`; its text may be "".
    `token_ids` are those consumed since the piece before; text may come later than its tokens (half characters,
    beginnings of stop strings), never earlier. `answer`: which of a prompt's n answers.
    """

    __slots__ = ("answer", "completion", "finish_reason", "logprobs", "token_ids")
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] | None
    answer: int
    finish_reason: str | None
    completion: Completion | None

    def __new__(
        cls,
        text: str,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[Logprob, ...] | None = None,
        answer: int = 0,
        completion: Completion | None = None,
    ) -> Piece:
        piece = super().__new__(cls, text)
        piece.token_ids = token_ids
        piece.logprobs = logprobs
        piece.answer = answer
        piece.completion = completion
        piece.finish_reason = completion.finish_reason if completion else None
        return piece
