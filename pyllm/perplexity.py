"""How well a model predicts a text, and how far it is from a reference model, window by window.

The rules are those of llama.cpp's perplexity tool: the text is cut into windows that do not overlap, every
window begins with the model's begin token where it has one (in place of the first token), and the second half
of each is scored, so that every scored token has at least half a window before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from pyllm.llm import LLM

    Floats = npt.NDArray[np.float64]

SMALLEST_WINDOW = 4


@dataclass
class _Score:
    """What each scored token has: its loss in nats, and beside a reference the differences."""

    loss: list[Floats] = field(default_factory=list)
    reference_loss: list[Floats] = field(default_factory=list)
    divergence: list[Floats] = field(default_factory=list)
    same_best: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    bytes: int = 0


def perplexity(
    llm: LLM,
    text: str,
    *,
    reference: LLM | None = None,
    reference_ids: Sequence[int] | None = None,
    window: int = 512,
    windows: int = 0,
    done: Callable[[int, int, float], None] = lambda count, of, perplexity: None,
) -> dict[str, Any]:
    """Scores `text` under `llm`, and beside `reference` the distance from it. Nothing is kept of the logits.

    reference_ids: of the model's tokens in the reference's vocabulary, where that is larger: the reference then
    reads the same tokens, and its others do not count.
    window: tokens in one. windows: of them at most, 0 for all that the text fills. done: hears after each
    window how many of how many there are, and the perplexity so far.
    Returns "perplexity", its standard error "stderr", "bits_per_byte" (which does not depend on how the text is
    cut), "tokens" scored, "window" and "windows"; with a reference
    also "reference_perplexity", Kullback-Leibler divergence from it in nats ("kl_mean", "kl_stderr",
    "kl_median", "kl_p99", "kl_max"), "top1_agreement", and "probability_change": of the text's own tokens, mean
    and root mean square. PyllmError when the text is too short, or the models read it differently.
    """
    parts = windows_of(llm, text, window, windows)
    ids = None if reference_ids is None else np.asarray(reference_ids)
    if reference is not None and ids is None:
        _check_same_tokens(llm, reference, text)
    score = _Score()
    for number, tokens in enumerate(parts, 1):
        _add(score, tokens, llm, reference, ids)
        done(number, len(parts), math.exp(np.concatenate(score.loss).mean()))
    return {**_summary(score), "window": window, "windows": len(parts)}


def windows_of(llm: LLM, text: str, window: int, most: int = 0) -> list[list[int]]:
    """The text's tokens, `window` at a time and `most` times at most (0: all); what is left at the end is not
    used. PyllmError for a text too short, or a window that the model has no room for."""
    if window < SMALLEST_WINDOW or window > llm.context:
        raise PyllmError(
            f"window: expected {SMALLEST_WINDOW} to {llm.context} tokens (the context), got {window}"
        )
    tokens = llm.tokenizer.encode(text)
    count = len(tokens) // window
    if count == 0:
        raise PyllmError(
            f"the text has {len(tokens)} tokens, expected at least a window of {window}; give a longer text or "
            "a smaller window"
        )
    begin = tokens[:1] if llm.tokenizer.add_bos else []
    parts = [tokens[i * window : (i + 1) * window] for i in range(min(count, most) if most else count)]
    return [begin + part[len(begin) :] for part in parts]


def _check_same_tokens(llm: LLM, reference: LLM, text: str) -> None:
    if reference.config.vocab != llm.config.vocab:
        raise PyllmError(
            f"the reference has {reference.config.vocab} tokens, the model {llm.config.vocab}: "
            "they cannot be compared"
        )
    if reference.tokenizer.encode(text) != llm.tokenizer.encode(text):
        raise PyllmError(
            "the reference cuts the text into other tokens than the model: they cannot be compared"
        )


def _scored(llm: LLM, tokens: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(position of its first row, logits [row, vocab]) of the positions whose next token is scored."""
    first, position = len(tokens) // 2, 0
    for rows in llm.logits_in_parts(tokens):
        begin, end = max(first - position, 0), min(len(rows), len(tokens) - 1 - position)
        if begin < end:
            yield position + begin, rows[begin:end]
        position += len(rows)


def _add(
    score: _Score,
    tokens: Sequence[int],
    llm: LLM,
    reference: LLM | None,
    ids: npt.NDArray[np.integer] | None,
) -> None:
    theirs = None
    if reference is not None:
        theirs = _rows(_scored(reference, tokens if ids is None else ids[list(tokens)].tolist()), ids)
    for position, rows in _scored(llm, tokens):
        for i in range(0, len(rows), 64):  # in float64 a row is large
            nats = log_softmax(rows[i : i + 64])
            next_tokens = np.asarray(tokens[position + i + 1 : position + i + 1 + len(nats)])
            at = np.arange(len(nats)), next_tokens
            score.loss.append(-nats[at])
            score.bytes += sum(len(llm.tokenizer.piece_bytes(token)) for token in next_tokens.tolist())
            if theirs is None:
                continue
            truth = log_softmax(np.stack([next(theirs) for _ in nats]))
            score.reference_loss.append(-truth[at])
            score.divergence.append((np.exp(truth) * (truth - nats)).sum(axis=1))
            score.same_best.append(truth.argmax(axis=1) == nats.argmax(axis=1))


def _rows(
    parts: Iterator[tuple[int, npt.NDArray[np.float32]]],
    ids: npt.NDArray[np.integer] | None,
) -> Iterator[npt.NDArray[np.float32]]:
    for _, rows in parts:
        yield from rows if ids is None else rows[:, ids]


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _stderr(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def _summary(score: _Score) -> dict[str, Any]:
    loss = np.concatenate(score.loss)
    value = math.exp(loss.mean())
    summary: dict[str, Any] = {
        "perplexity": value,
        "stderr": value * _stderr(loss),  # of the mean loss, carried through exp
        "bits_per_byte": float(loss.sum()) / math.log(2) / max(1, score.bytes),
        "tokens": len(loss),
    }
    if score.divergence:
        reference_loss, divergence = np.concatenate(score.reference_loss), np.concatenate(score.divergence)
        change = np.exp(-loss) - np.exp(-reference_loss)
        summary |= {
            "reference_perplexity": math.exp(reference_loss.mean()),
            "kl_mean": float(divergence.mean()),
            "kl_stderr": _stderr(divergence),
            "kl_median": float(np.median(divergence)),
            "kl_p99": float(np.quantile(divergence, 0.99)),
            "kl_max": float(divergence.max()),
            "top1_agreement": float(np.concatenate(score.same_best).mean()),
            "probability_change": {
                "mean": float(change.mean()),
                "rms": float(np.sqrt(np.square(change).mean())),
            },
        }
    return summary


def plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws sizes against losses: of each report "model", "file_bytes" and what perplexity() returned."""
    from matplotlib.figure import Figure

    from pyllm.pictures import save_picture

    panels = [("perplexity", "stderr")] + [("kl_mean", "kl_stderr")] * ("kl_mean" in reports[0])
    figure = Figure(figsize=(8, 4.5 * len(panels)), layout="constrained")
    ordered = sorted(reports, key=lambda report: report["file_bytes"])
    sizes = [report["file_bytes"] / 1e6 for report in ordered]
    for axes, (key, error) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        values = [report[key] for report in ordered]
        axes.errorbar(sizes, values, yerr=[report[error] for report in ordered], fmt="o-", capsize=3)
        for report, size, value in zip(ordered, sizes, values, strict=True):
            axes.annotate(report["model"], (size, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
        if key == "perplexity" and "reference_perplexity" in reports[0]:
            axes.axhline(reports[0]["reference_perplexity"], linestyle="--", color="grey", label="reference")
            axes.legend()
        axes.set_xlabel("file, MB")
        axes.set_ylabel("perplexity" if key == "perplexity" else "mean KL divergence, nats")
        axes.margins(x=0.15)
    save_picture(figure, path)
