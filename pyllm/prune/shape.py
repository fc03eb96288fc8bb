"""The sizes that pruning changes, as a file's metadata has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value
from pyllm.weights import Source

_MOST = 1 << 24  # of anything that is counted here


@dataclass(frozen=True)
class Shape:
    """is_global: [layer] whether it sees the whole context; empty where no layer has a window."""

    architecture: str
    dim: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    is_global: tuple[bool, ...] = ()

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    @property
    def group(self) -> int:
        """Query heads to a KV head."""
        return self.heads // self.kv_heads

    @property
    def query_scale(self) -> float:
        """By which queries are multiplied. Gemma 3 27B, known by its 62 layers, has its own."""
        if self.architecture == "gemma3" and self.layers == 62:
            return math.sqrt(self.heads / self.dim)
        return 1 / math.sqrt(self.head_dim)


def shape_of(source: Source, metadata: Mapping[str, Value]) -> Shape:
    """PyllmError for an architecture that is not known here, and sizes that are missing or make no sense."""
    named = metadata.get("general.architecture")
    architecture = named.value if named else None
    if architecture not in _core.known_architectures():
        known = ", ".join(_core.known_architectures())
        raise PyllmError(f"general.architecture: {architecture} cannot be pruned; known: {known}")
    keys = _Keys(str(architecture), metadata)
    if keys.number("expert_count", 0):
        raise PyllmError(f"{architecture}.expert_count: mixtures of experts cannot be pruned yet")
    embedding = next((t for t in source.tensors if t.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        raise PyllmError(f"{source.paths[0]}: token_embd.weight: expected a matrix")
    dim, layers, heads = (keys.number(n) for n in ("embedding_length", "block_count", "attention.head_count"))
    kv_heads = keys.number("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise PyllmError(f"{architecture}.attention.head_count_kv: {kv_heads} is no divisor of {heads} heads")
    head_dim = keys.number("attention.key_length", dim // heads)
    if keys.number("attention.value_length", head_dim) != head_dim:
        raise PyllmError(f"{architecture}.attention.value_length: expected key_length, {head_dim}")
    return Shape(
        architecture=str(architecture),
        dim=dim,
        layers=layers,
        ffn=keys.number("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=embedding.shape[0],
        is_global=keys.global_layers(layers) if architecture == "gemma3" else (),
    )


@dataclass(frozen=True)
class _Keys:
    architecture: str
    metadata: Mapping[str, Value]

    def value(self, name: str) -> Any:
        found = self.metadata.get(f"{self.architecture}.{name}")
        return None if found is None else found.value

    def number(self, name: str, default: int | None = None) -> int:
        """One number, or one that all layers share; at least 1, or 0 where that is the default."""
        value = self.value(name)
        each = default if value is None else value
        if isinstance(each, Sequence) and not isinstance(each, str) and len(set(each)) == 1:
            each = each[0]
        least = 0 if default == 0 else 1
        if isinstance(each, bool) or not isinstance(each, int) or not least <= each <= _MOST:
            raise PyllmError(
                f"{self.architecture}.{name}: expected {least} to {_MOST}, the same for every layer, the file "
                f"has {value!r:.80}"
            )
        return each

    def global_layers(self, layers: int) -> tuple[bool, ...]:
        """From attention.sliding_window_pattern: every n-th layer, or a flag a layer that is 0 for global."""
        name = "attention.sliding_window_pattern"
        value = self.value(name)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != layers:
                raise PyllmError(
                    f"{self.architecture}.{name}: expected {layers} flags, the file has {len(value)}"
                )
            return tuple(not flag for flag in value)
        every = self.number(name, 6)
        return tuple((i + 1) % every == 0 for i in range(layers))
