"""The sampling options that /set knows: their kinds, ranges and meanings. SamplingParams checks the values."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from typing import Any

from pyllm.errors import PyllmError


@dataclass(frozen=True)
class Option:
    """kind: int, float, bool, "count" or "seed" (whole numbers or none), "texts", "bias"."""

    name: str
    kind: type | str
    range: str
    help: str


OPTIONS = {
    option.name: option
    for option in (
        Option("temperature", float, "0 to 100", "0: always the most probable token"),
        Option("top_k", int, "0 or more", "keep the k most probable tokens; 0: all"),
        Option("top_p", float, "0 to 1", "keep the tokens that make up this probability"),
        Option("min_p", float, "0 to 1", "drop tokens below this share of the best one's"),
        Option("typical_p", float, "0 to 1", "locally typical sampling; 1: off"),
        Option("top_n_sigma", float, "0 to 1e6", "keep logits within n sigma of the best; 0: off"),
        Option("repetition_penalty", float, "above 0, to 100", "above 1: repeat less"),
        Option("presence_penalty", float, "-100 to 100", "subtracted from tokens already there"),
        Option("frequency_penalty", float, "-100 to 100", "the same, per occurrence"),
        Option("penalty_last_n", int, "-1 or more", "tokens that the penalties look back; -1: all"),
        Option("dry_multiplier", float, "0 to 1000", "against repeated sequences; 0: off"),
        Option("dry_base", float, "1 to 1000", "how fast DRY grows with a repeat's length"),
        Option("dry_allowed_length", int, "1 or more", "repeats up to this length are free"),
        Option("dry_penalty_last_n", int, "-1 or more", "tokens that DRY looks back; -1: all"),
        Option("dry_sequence_breakers", "texts", "JSON list of texts", "no repeat is followed across one"),
        Option("xtc_probability", float, "0 to 1", "how often the top choices are left out; 0: off"),
        Option("xtc_threshold", float, "0 to 1", "probability from which a token is a top choice"),
        Option("mirostat_tau", float, "0 to 100", "Mirostat 2's target surprise; 0: off"),
        Option("mirostat_eta", float, "0 to 1", "Mirostat's rate of learning"),
        Option("max_tokens", "count", "1 or more, none", "longest answer; none: as the context lasts"),
        Option("min_tokens", int, "0 to max_tokens", "no end before"),
        Option("stop", "texts", "text or JSON list", "the answer ends before them"),
        Option("ignore_eos", bool, "true, false", "never end by itself"),
        Option("logit_bias", "bias", '{"TOKEN ID": NUMBER}', 'added to logits; -1e6 to 1e6, "-inf" bans'),
        Option("seed", "seed", "0 to 2^64 - 1, none", "the same seed gives the same tokens"),
    )
}

_TRUE, _FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


def option(name: str) -> Option:
    """By name, - or _ between words. PyllmError suggests the nearest."""
    name = name.strip().lower().replace("-", "_")
    if name in OPTIONS:
        return OPTIONS[name]
    near = difflib.get_close_matches(name, OPTIONS, n=2, cutoff=0.4)
    raise PyllmError(
        f"unknown option {name[:40]!r}: " + (f"did you mean {' or '.join(near)}?" if near else "see /set")
    )


def parse(option: Option, text: str) -> Any:
    """The value that a text means. PyllmError names the option and its range."""
    try:
        return _parse(option, text)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PyllmError(f"{option.name}: expected {option.range}, got {text[:60]!r}") from None


def _parse(option: Option, text: str) -> Any:
    kind = option.kind
    if kind in ("seed", "count"):
        return None if text.lower() in ("none", "off") else int(text)
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    if kind is int:
        return int(text)
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind == "texts":
        texts = json.loads(text) if text[0] in '["' else text
        return tuple(texts) if isinstance(texts, list) else (texts,)
    return {int(token): float(bias) for token, bias in json.loads(text).items()}
