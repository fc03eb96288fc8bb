"""The most that can go within a loss: of amounts taken in steps, the largest that will do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft
from pyllm.prune.ffn import kept_channels
from pyllm.prune.prune import Amounts
from pyllm.prune.sparsity import Pattern

STEPS = 16

Fits = Callable[[Amounts], bool]


def largest_that_fits(draft: Draft, most: Amounts, searched: Fits, verified: Fits) -> Amounts:
    """Of the parts of `most` (1/16 of each amount, 2/16 ...) the largest that loses little enough.

    searched: whether that is so on the text that chose what goes. verified: on another one; where it is not,
    less goes. PyllmError when even the least loses too much.
    """
    parts = list(steps(draft, most))
    best = _largest(len(parts), lambda i: searched(parts[i]))
    if best >= 0 and not verified(parts[best]):
        best = _largest(best, lambda i: verified(parts[i]))
    if best < 0:
        raise PyllmError("even the least part of these amounts loses more than --max-loss; nothing was written")
    return parts[best]


def _largest(count: int, fits: Callable[[int], bool]) -> int:
    """By bisection, of the numbers below `count`; -1 when none fits."""
    within, beyond = -1, count
    while beyond - within > 1:
        middle = (within + beyond) // 2
        if fits(middle):
            within = middle
        else:
            beyond = middle
    return within


def steps(draft: Draft, most: Amounts) -> Iterator[Amounts]:
    """From little to all of `most`, each another model. Tokens and patterns such as 2:4 are in all of them."""
    before = None
    for step in range(1, STEPS + 1):
        part = step / STEPS
        channels = _channels(draft, most.ffn * part)
        sparsity = most.sparsity
        if sparsity and not sparsity.run:
            sparsity = Pattern(sparsity.zeros * part)
        found = replace(
            most,
            layers=round(most.layers * part),
            ffn=most.ffn * part if channels < draft.shape.ffn else 0.0,
            heads=round(most.heads * part),
            sparsity=sparsity,
        )
        size = found.layers, channels, found.heads, sparsity
        if size != before and (found.calibrated or found.tokens is not None):
            yield found
        before = size


def _channels(draft: Draft, share: float) -> int:
    try:
        return kept_channels(draft, share)
    except PyllmError:
        return draft.shape.ffn
