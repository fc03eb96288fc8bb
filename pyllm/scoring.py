"""How probable a model finds a given continuation of a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm import _core
    from pyllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class ScoreJob:
    """Tokens made ready for the engine; those from `wants["score_from"]` on are scored."""

    tokens: list[int]
    core: _core.SamplingParams
    wants: dict[str, Any] = field(default_factory=dict)

    def begin(self, id: int, tokenizer: Tokenizer, started: float, load_s: float) -> ScoreRequest:
        return ScoreRequest(id)


class ScoreRequest:
    """A job in the engine."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.done = False
        self.generated = 0
        self._sum = 0.0

    def take(self, event: _core.Event, now: float) -> float | None:
        """In the end the natural logarithm of the probability of all scored tokens. PyllmError when the request
        failed."""
        if event.finish_reason in ("error", "cancelled"):
            raise PyllmError(event.detail or f"the request was {event.finish_reason}")
        if event.scores is not None:
            self._sum += float(event.scores.sum(dtype="float64"))
        if not event.finish_reason:
            return None
        self.done = True
        return self._sum


def score_job(tokens: list[int], start: int) -> ScoreJob:
    """Scores tokens[start:], 1 <= start < len(tokens)."""
    from pyllm import _core

    return ScoreJob(tokens, _core.SamplingParams(), {"score_from": start})


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """The tokens of both as one text, and where the continuation's begin: those that are more than the context
    alone has. Spaces that end the context count as the continuation's, as most tokens begin with one.

    An empty context is the token that begins a text, or else the one that ends it. The rule is that of
    EleutherAI's lm-evaluation-harness (api/model.py, _encode_pair).
    """
    if not context:
        begin = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
        tokens = tokenizer.encode(continuation, add_bos=False)
        return (tokens, 1) if begin is None or tokens[:1] == [begin] else ([begin, *tokens], 1)
    kept = context.rstrip()
    tokens = tokenizer.encode(context + continuation)
    return tokens, max(1, min(len(tokenizer.encode(kept)), len(tokens) - 1))
