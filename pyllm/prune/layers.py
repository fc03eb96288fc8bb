"""Whole layers: those go whose output differs least from their input.

Source: block influence, Men et al., 2024 (ShortGPT): 1 - cosine similarity of a layer's input and output, mean
over tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value
from pyllm.prune.draft import Draft
from pyllm.prune.shape import Shape

# Keys that may hold a value for each layer.
_EACH_LAYER = (
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.sliding_window_pattern",
)
_PATTERN = "attention.sliding_window_pattern"


def check_layers(shape: Shape, count: int) -> None:
    if not 0 < count < shape.layers:
        raise PyllmError(f"--layers {count}: the model has {shape.layers}, at least one must go and one stay")


def drop_layers(draft: Draft, count: int, influence: Sequence[float]) -> list[int]:
    """Takes `count` layers out and returns which. influence: [layer]. PyllmError when too few would be left."""
    shape = draft.shape
    check_layers(shape, count)
    if len(influence) != shape.layers or not np.isfinite(influence).all():
        raise PyllmError(f"expected the influence of {shape.layers} layers, got {list(influence)!r:.200}")
    if shape.is_global:
        kept, period = periodic(influence, shape.is_global, shape.layers - count)
    else:
        kept, period = sorted(np.argsort(influence, kind="stable")[count:].tolist()), None
    _renumber(draft, kept)
    draft.set("block_count", len(kept))
    if period is not None:
        draft.values.pop(shape.key(_PATTERN), None)
        draft.set(_PATTERN, period)
    is_global = tuple(shape.is_global[i] for i in kept) if shape.is_global else ()
    draft.shape = replace(shape, layers=len(kept), is_global=is_global)
    return [i for i in range(shape.layers) if i not in kept]


def _renumber(draft: Draft, kept: Sequence[int]) -> None:
    place = {old: new for new, old in enumerate(kept)}
    for name in [t.name for t in draft.tensors]:
        within = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        if within is None:
            continue
        new = place.get(int(within[1]))
        if new is None:
            draft.drop(name)
        else:
            draft.edit(name).name = f"blk.{new}.{within[2]}"
    for name in _EACH_LAYER:
        found = draft.values.get(draft.shape.key(name))
        if found is not None and found.element is not None and len(found.value) == draft.shape.layers:
            values = [found.value[i] for i in kept]
            draft.values[draft.shape.key(name)] = Value(values, found.type, found.element)


def periodic(influence: Sequence[float], is_global: Sequence[bool], keep: int) -> tuple[list[int], int]:
    """The most influential layers among which every n-th is global, as every engine can tell by one number.

    The whole of a model's layers is such a choice, so there always is one: its first layers.
    """
    best: tuple[float, list[int], int] | None = None
    for period in range(1, keep + 2):  # the last: none is global
        # chosen[k]: the best k of the layers so far, and their influence.
        chosen: list[tuple[float, list[int]] | None] = [(0.0, [])] + [None] * keep
        for layer, (weight, flag) in enumerate(zip(influence, is_global, strict=True)):
            for k in range(min(layer, keep - 1), -1, -1):
                so_far, longer = chosen[k], chosen[k + 1]
                if so_far is None or flag != ((k + 1) % period == 0):
                    continue
                if longer is None or so_far[0] + weight > longer[0]:
                    chosen[k + 1] = so_far[0] + weight, [*so_far[1], layer]
        found = chosen[keep]
        if found is not None and (best is None or found[0] > best[0]):
            best = *found, period
    if best is None:
        raise PyllmError(
            f"no {keep} of the {len(is_global)} layers have global ones at an even distance, as GGUF needs it"
        )
    return best[1], best[2]
