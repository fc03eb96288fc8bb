"""Pruning a GGUF file: what is asked for, in the order in which it is taken out, and the file written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf.constants import GGUFValueType

from pyllm.gguf_writer import Value, typed
from pyllm.prune.draft import Draft, Indices
from pyllm.prune.ffn import kept_channels, narrow_ffn
from pyllm.prune.heads import check_heads, drop_heads
from pyllm.prune.layers import check_layers, drop_layers
from pyllm.prune.shape import Shape
from pyllm.prune.sparsity import Pattern, make_sparse, share_of_zeros
from pyllm.prune.vocabulary import keep_tokens
from pyllm.quantize.plan import Planned
from pyllm.quantize.quantize import Importance, check_target, write_planned
from pyllm.weights import GgufSource

if TYPE_CHECKING:
    from pyllm.progress import Progress

_OURS = "pyllm.prune."  # metadata that tells what was taken out
# Of a size that is no longer the model's.
_STALE = ("general.size_label", "general.parameter_count")


@dataclass(frozen=True)
class Amounts:
    """How much goes. ffn: share of the channels. tokens: ids that stay, all where None."""

    layers: int = 0
    ffn: float = 0.0
    heads: int = 0
    tokens: Indices | None = None
    sparsity: Pattern | None = None

    @property
    def calibrated(self) -> bool:
        """Whether activations are needed to choose."""
        return bool(self.layers or self.ffn or self.heads or self.sparsity)


@dataclass(frozen=True)
class Pruned:
    """What was taken out. layers: their numbers in the input. zeros: share of the layers' weights in the target
    that are 0, None where none was made so. notes: what the user should know."""

    before: Shape
    after: Shape
    layers: Sequence[int]
    sparsity: Pattern | None
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    zeros: float | None
    notes: Sequence[str]


def prune(
    path: Path,
    target: Path,
    amounts: Amounts,
    importance: Importance,
    influence: Sequence[float] = (),
    *,
    figures: Mapping[str, Any] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Pruned:
    """Writes the model in `path` to `target` without what `amounts` says.

    importance: mean squared inputs of each matrix by its name, [column]. influence: [layer], see layers.py.
    figures: plain values for the metadata, under `pyllm.prune.`. `target` gets its name only when it is whole.
    PyllmError for amounts that the model does not have, activations of another model, weights that are not
    finite, a full disk, and a target that is the source.
    """
    source = GgufSource(path)
    check_target(target, source.paths)
    draft = Draft(source)
    parameters = _parameters(draft)
    layers = _cut(draft, amounts, importance, influence)
    _describe(draft, amounts, layers, figures or {})
    plan = draft.plan()
    kept = draft.importance(importance)
    write_planned(draft, target, draft.metadata(), plan, kept, threads, progress=progress)
    return Pruned(
        before=draft.before,
        after=draft.shape,
        layers=layers,
        sparsity=amounts.sparsity,
        parameters_before=parameters,
        parameters_after=_parameters(draft),
        bytes_before=source.n_bytes,
        bytes_after=target.stat().st_size,
        zeros=share_of_zeros(target) if amounts.sparsity else None,
        notes=[*draft.notes, *_notes(plan, amounts)],
    )


def _cut(draft: Draft, amounts: Amounts, importance: Importance, influence: Sequence[float]) -> list[int]:
    """Returns the numbers of the layers that went. They go last: until then, names are the input's."""
    if amounts.heads:
        drop_heads(draft, amounts.heads, importance)
    if amounts.ffn:
        narrow_ffn(draft, kept_channels(draft, amounts.ffn), importance)
    if amounts.tokens is not None:
        keep_tokens(draft, amounts.tokens)
    if amounts.sparsity:
        make_sparse(draft, amounts.sparsity, importance)
    layers = drop_layers(draft, amounts.layers, influence) if amounts.layers else []
    _keep_query_scale(draft)
    return layers


def _keep_query_scale(draft: Draft) -> None:
    """Engines tell Gemma 3 27B's scale by its layers; the norm of the queries makes up for another one."""
    factor = draft.before.query_scale / draft.shape.query_scale
    if abs(factor - 1) < 1e-9:
        return
    for tensor in draft.tensors:
        if tensor.name.endswith("attn_q_norm.weight"):
            draft.by_name(tensor.name).factor = factor


def _describe(draft: Draft, amounts: Amounts, layers: Sequence[int], figures: Mapping[str, Any]) -> None:
    for key in [key for key in draft.values if key.startswith(_OURS)] + list(_STALE):
        draft.values.pop(key, None)
    before, after = draft.before, draft.shape
    done: dict[str, Any] = {
        "ffn": f"{before.ffn} to {after.ffn}" if amounts.ffn else None,
        "kv_heads": f"{before.kv_heads} to {after.kv_heads}" if amounts.heads else None,
        "tokens": f"{before.vocab} to {after.vocab}" if amounts.tokens is not None else None,
        "sparsity": str(amounts.sparsity) if amounts.sparsity else None,
        **figures,
    }
    draft.values.update(
        {f"pyllm.prune.{key}": typed(value) for key, value in done.items() if value is not None}
    )
    if layers:
        draft.values["pyllm.prune.layers"] = Value(list(layers), GGUFValueType.ARRAY, GGUFValueType.UINT32)


def _parameters(draft: Draft) -> int:
    return sum(math.prod(t.shape) for t in draft.tensors)


def _notes(plan: Sequence[Planned], amounts: Amounts) -> list[str]:
    notes = []
    again: dict[str, int] = {}
    for t in plan:
        if t.source != t.type:
            kinds = f"{t.wanted} as {t.type}" if t.wanted != t.type else t.type
            again[kinds] = again.get(kinds, 0) + 1
    if again:
        listed = ", ".join(f"{count} of {kinds}" for kinds, count in again.items())
        notes.append(f"matrices whose columns changed were quantized again: {listed}; all others are copied")
    if amounts.sparsity:
        notes.append(
            f"sparsity {amounts.sparsity}: these weights are 0, but stored all the same, and no kernel here or "
            "in llama.cpp is faster for it"
        )
    return notes


def check_amounts(draft: Draft, amounts: Amounts) -> None:
    """PyllmError for what cannot go; before anything is calibrated."""
    if amounts.layers:
        check_layers(draft.shape, amounts.layers)
    if amounts.heads:
        check_heads(draft.shape, amounts.heads)
    if amounts.ffn:
        kept_channels(draft, amounts.ffn)
