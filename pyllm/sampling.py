"""How tokens are chosen and when an answer ends, as a user says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyllm.constraint import Constraint
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm import _core

_ANY_VOCABULARY = 2**31 - 1


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters. The defaults are llama.cpp's: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05.
    For draws from the model's whole distribution: `SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0)`.

    The filters apply in this order: logit_bias and bans; repetition, presence and frequency penalties; DRY;
    top_n_sigma; top_k; typical_p; top_p; min_p; XTC; temperature. With mirostat_tau, temperature comes first
    and mirostat replaces those from top_n_sigma to XTC. At temperature 0 (greedy) nothing after DRY applies.

    Length: max_tokens (None: as long as the context lasts), min_tokens (no end before), stop (strings; the
        answer ends before them), stop_token_ids, ignore_eos (never draws an end-of-text token).
    Penalties: repetition_penalty divides or multiplies (1: off) over prompt and answer; presence_penalty and
        frequency_penalty subtract (0: off) over the answer; all look back penalty_last_n tokens (-1: all).
    DRY: off at dry_multiplier 0; no repeat is followed across one of dry_sequence_breakers.
    XTC: off at xtc_probability 0. Mirostat 2: off at mirostat_tau 0.
    logit_bias: token id -> number added to its logit; -inf bans it.
    seed: the same seed gives the same tokens, whatever else runs at the same time; None: another each time.
    n: answers to the same prompt; its tokens are computed once.
    logprobs: report each token's log-probability, and the top_logprobs most probable at its place: natural
        logarithms of the model's own distribution, before everything above.
    constraint: what the answer's text must be: JSON of a schema, a regular expression or a grammar.
    visible_tokens: control tokens whose text is part of the answer's; others are left out of it.

    A value out of its range raises PyllmError that names it.
    """

    max_tokens: int | None = 512
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat_tau: float = 0.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    constraint: Constraint | None = None
    visible_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stop", "dry_sequence_breakers"):
            object.__setattr__(self, name, _strings(name, getattr(self, name)))
        object.__setattr__(self, "visible_tokens", tuple(self.visible_tokens))
        if not isinstance(self.constraint, Constraint | None):
            raise PyllmError(f"constraint: expected a Constraint or None, got {type(self.constraint).__name__}")
        self.to_core(lambda breakers: []).validate(_ANY_VOCABULARY)

    def to_core(self, breaker_tokens: Callable[[tuple[str, ...]], list[list[int]]]) -> _core.SamplingParams:
        """The engine's form; `breaker_tokens` says which token sequences hold a DRY sequence breaker."""
        from pyllm import _core

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["stop"], fields["visible_tokens"], fields["constraint"]
        if fields["max_tokens"] is None:
            del fields["max_tokens"]
        fields["logit_bias"] = fields["logit_bias"] or {}
        breakers = fields["dry_sequence_breakers"]
        # Turning text into tokens costs time: only when DRY is on.
        fields["dry_sequence_breakers"] = breaker_tokens(breakers) if self.dry_multiplier else []
        return _core.SamplingParams(**fields)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if value is None:
        value = ()
    if not isinstance(value, Sequence) or not all(isinstance(s, str) and s for s in value):
        raise PyllmError(f"{name}: expected strings of at least one character, got {value!r}")
    return tuple(value)
