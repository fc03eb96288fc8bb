"""Embeddings: one vector for a text, from the model's hidden states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pyllm.completion import Usage
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pyllm import _core
    from pyllm.tokenizer import Tokenizer
    from pyllm.vocabulary import Metadata

# Of the states after the final norm: the last token's, or the mean over all tokens.
Pooling: TypeAlias = Literal["last", "mean"]
POOLINGS: tuple[Pooling, ...] = ("last", "mean")
_TYPES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # the GGUF format's pooling_type


@dataclass(frozen=True)
class Embedding:
    """`vector`: float32 [dim] of length 1. `queue_s`: seconds until the first step that computed some of it."""

    vector: npt.NDArray[np.float32]
    usage: Usage
    queue_s: float


@dataclass(frozen=True)
class EmbedJob:
    """A text made ready for the engine."""

    tokens: list[int]
    core: _core.SamplingParams
    wants: dict[str, Any] = field(default_factory=dict)

    def begin(self, id: int, tokenizer: Tokenizer, started: float, load_s: float) -> EmbedRequest:
        return EmbedRequest(id)


class EmbedRequest:
    """A job in the engine. It has one event: its end."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.done = False
        self.generated = 0

    def take(self, event: _core.Event, now: float) -> Embedding | None:
        """The embedding. PyllmError when the request failed."""
        if event.embedding is None:
            raise PyllmError(event.detail or f"the request was {event.finish_reason}")
        self.done = True
        usage = Usage(event.prompt_tokens, 0, event.cached_tokens)
        return Embedding(event.embedding.copy(), usage, event.queue_s)


def embed_job(tokens: list[int], pooling: Pooling) -> EmbedJob:
    """PyllmError when the pooling is none, or there are no tokens."""
    from pyllm import _core

    if pooling not in POOLINGS:
        raise PyllmError(f"pooling: expected {' or '.join(POOLINGS)}, got {pooling!r:.80}")
    if not tokens:
        raise PyllmError("the text is empty: expected at least one token")
    return EmbedJob(tokens, _core.SamplingParams(), {"pooling": pooling})


def own_pooling(file: Metadata, architecture: str) -> Pooling | None:
    """What the file's pooling_type says the model was made for; None where it does not say."""
    key = f"{architecture}.pooling_type"
    value = file.get(key)
    name = _TYPES.get(value, "unknown") if isinstance(value, int) else "unknown"
    if value is None or name == "none":
        return None
    for pooling in POOLINGS:
        if name == pooling:
            return pooling
    raise PyllmError(
        f"{key}: {value!r:.80} ({name}) is no pooling that pyllm has; ask for {' or '.join(POOLINGS)}"
    )
