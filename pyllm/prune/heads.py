"""KV heads together with the query heads that read them: those groups go that add least to what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft, Floats, Indices
from pyllm.prune.ffn import column_loss
from pyllm.prune.shape import Shape


def check_heads(shape: Shape, count: int) -> None:
    if shape.architecture == "qwen2":
        raise PyllmError(
            "--heads: llama.cpp takes qwen2's heads for the model's width and could not load the result; "
            "--layers and --ffn can be used"
        )
    if not 0 < count < shape.kv_heads:
        raise PyllmError(
            f"--heads {count}: the model has {shape.kv_heads} KV heads, at least one must go and one stay"
        )


def drop_heads(draft: Draft, count: int, importance: Mapping[str, Floats]) -> None:
    """Takes `count` KV heads out of every layer, each layer's own least. PyllmError when none would be left."""
    shape = draft.shape
    check_heads(shape, count)
    keep = shape.kv_heads - count
    for layer in range(shape.layers):
        output = f"blk.{layer}.attn_output"
        loss = column_loss(draft, f"{output}.weight", importance).reshape(shape.kv_heads, -1).sum(axis=1)
        kept = np.sort(np.argsort(loss, kind="stable")[count:])
        queries = (kept[:, None] * shape.group + np.arange(shape.group)).reshape(-1)
        draft.keep_rows(f"blk.{layer}.attn_q", _features(queries, shape.head_dim))
        for part in ("attn_k", "attn_v"):
            draft.keep_rows(f"blk.{layer}.{part}", _features(kept, shape.head_dim))
        draft.edit(f"{output}.weight").columns = _features(queries, shape.head_dim)
    draft.set("attention.head_count", keep * shape.group)
    draft.set("attention.head_count_kv", keep)
    # Otherwise a head is taken for the model's width divided by the heads.
    draft.set("attention.key_length", shape.head_dim)
    draft.set("attention.value_length", shape.head_dim)
    draft.shape = replace(shape, heads=keep * shape.group, kv_heads=keep)


def _features(heads: Indices, head_dim: int) -> Indices:
    return (heads[:, None] * head_dim + np.arange(head_dim)).reshape(-1)
