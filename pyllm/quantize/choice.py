"""Which type each tensor gets when size and loss are weighed against each other over the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have, its bytes, and the loss that it adds to the model's."""

    type: str
    bytes: int
    loss: float


def choose(
    options: Mapping[str, Sequence[Option]], *, bytes: int | None = None, loss: float | None = None
) -> dict[str, Option]:
    """The option of each tensor with the least loss in all within `bytes`, or the fewest bytes within `loss`.

    Losses are taken to add up. Every tensor begins at its smallest option; then the step that saves most loss
    a byte goes first (the greedy order along each tensor's convex hull, which is Lagrange's optimum but for the
    last step). Where even the smallest options exceed `bytes`, or the largest `loss`, these are returned.
    """
    hulls = {name: convex_hull(found) for name, found in options.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    size, total = (sum(getattr(o, of) for o in chosen.values()) for of in ("bytes", "loss"))
    steps = [(name, a, b) for name, hull in hulls.items() for a, b in pairwise(hull)]
    steps.sort(key=lambda step: -(step[1].loss - step[2].loss) / (step[2].bytes - step[1].bytes))
    for name, before, after in steps:
        if loss is not None and total <= loss:
            break
        if chosen[name] is not before:
            continue  # an earlier step of this tensor did not fit
        if bytes is not None and size + after.bytes - before.bytes > bytes:
            continue
        chosen[name] = after
        size += after.bytes - before.bytes
        total += after.loss - before.loss
    return chosen


def convex_hull(options: Sequence[Option]) -> list[Option]:
    """Those that no mixture of others beats: from the smallest on, each byte saves less than those before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], option) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    return (a.loss - b.loss) / (b.bytes - a.bytes)
