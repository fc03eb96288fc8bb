"""What pruning cost and what it brought: both models side by side, on a text that chose nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm import _core
from pyllm.bench.speed import KV_BLOCK, Speed, Test
from pyllm.errors import PyllmError
from pyllm.perplexity import perplexity
from pyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pyllm.llm import LLM

WINDOW = 512  # tokens
CONTEXT = 544
SHORTEST = 32
FIGURES = ("perplexity", "bits_per_byte")
PAIRS = 3  # of runs, one of each model in turns: a neighbour slows down both
PROMPT, DECODE = 256, 32  # tokens

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measure:
    """How two models are compared. windows: at most so many of the text are scored, 0: all. engine: of LLM."""

    text: str
    windows: int = 16
    engine: dict[str, Any] = field(default_factory=dict)


def compare(
    before: Path,
    after: Path,
    measure: Measure,
    tokens: Sequence[int] | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """{"before", "after", "loss"}: figures of each, and `perplexity`'s of `after` beside `before`.

    tokens: ids in `before` of the tokens of `after`, where those are fewer: then "loss" is about these alone,
    and before's own perplexity is that of its own way to cut the text.
    """
    tell("loading")
    with opened(after, measure.engine) as llm, opened(before, measure.engine) as reference:
        figures = _speeds(reference, llm, tell)
        loss = loss_of(llm, reference, measure, tokens, tell)
        figures["after"] |= {key: loss[key] for key in FIGURES}
        own = _own(loss) if tokens is None else loss_of(reference, None, measure, None, tell)
        figures["before"] |= {key: own[key] for key in FIGURES}
    return {**figures, "loss": loss}


def loss_of(
    llm: LLM,
    reference: LLM | None,
    measure: Measure,
    tokens: Sequence[int] | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """`perplexity`'s report, in windows of 512 tokens or what there is."""
    window = _window(len(llm.tokenizer.encode(measure.text)), llm.context)
    return perplexity(
        llm,
        measure.text,
        reference=reference,
        reference_ids=tokens,
        window=window,
        windows=measure.windows,
        done=lambda count, of, value: tell(f"perplexity {value:.3f}, window {count} of {of}"),
    )


def _own(loss: dict[str, Any]) -> dict[str, Any]:
    """The reference's figures, where it has read the same tokens."""
    value = loss["reference_perplexity"]
    return {
        "perplexity": value,
        "bits_per_byte": loss["bits_per_byte"] * math.log(value) / math.log(loss["perplexity"]),
    }


def opened(path: Path, options: dict[str, Any]) -> LLM:
    """A model to measure: one sequence, in as much context as a window or a speed test takes."""
    from pyllm.llm import LLM

    context = min(CONTEXT, _trained(path))
    llm = LLM(path, max_sequences=1, context=context, **options)
    llm.settle()
    return llm


def window_for(path: Path, text: str) -> int:
    """Tokens in a window: 512, or what the model or the text has room for. PyllmError for hardly any text."""
    return _window(len(Tokenizer.from_gguf(path).encode(text)), _trained(path))


def _trained(path: Path) -> int:
    file = _core.GgufFile(path)
    length = file.get(f"{file.get('general.architecture')}.context_length")
    return length if isinstance(length, int) else CONTEXT


def _window(tokens: int, context: int) -> int:
    if tokens < SHORTEST:
        raise PyllmError(
            f"a text of {tokens} tokens is too short to tell anything; expected at least {SHORTEST}"
        )
    return min(WINDOW, tokens, context)


def _speeds(before: LLM, after: LLM, tell: Tell) -> dict[str, dict[str, Any]]:
    """Tokens per second of both, medians; and of `after` the median of the ratios within a pair of runs."""
    figures: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    runners = Speed(before), Speed(after)
    room = min(before.context, after.context) - KV_BLOCK
    for test in (Test("prompt", min(PROMPT, room)), Test("decode", min(DECODE, room))):
        for runner in runners:
            runner.warm_up(test)
        pairs = []
        for i in range(PAIRS):
            tell(f"speed, {test}, {i + 1} of {PAIRS}")
            pairs.append([runner.rate(test) for runner in runners])
        name = f"{test.test}_tokens_per_second"
        figures["before"][name], figures["after"][name] = (
            round(statistics.median(rates), 2) for rates in zip(*pairs, strict=True)
        )
        figures["after"][f"{test.test}_speedup"] = round(statistics.median(b / a for a, b in pairs), 3)
    return figures
