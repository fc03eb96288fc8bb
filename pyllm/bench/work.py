"""What a model has to read and to compute at least, by the sizes in its file: the measure of every rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyllm import _core

CHUNK = 512  # prompt tokens per step


@dataclass(frozen=True)
class Need:
    """Bytes to read and int8 operations (a product and a sum are two) of some tokens."""

    read: float
    operations: float

    def shares(self, seconds: float, ceilings: dict[str, float]) -> dict[str, float]:
        """Parts of the machine's ceilings, 0 to 1; more than 1 where a cache holds what is read."""
        return {
            "read": round(self.read / seconds / (ceilings["read_gbps"] * 1e9), 4),
            "int8": round(self.operations / seconds / (ceilings["int8_tops"] * 1e12), 4),
        }


@dataclass(frozen=True)
class Work:
    """A model's sizes: weights in matrix products (embedding rows are looked up, not multiplied), keys, values.

    body: of the layers, for every token. head: of the output, only for tokens whose logits are wanted.
    """

    body_weights: int
    body_bytes: int
    head_weights: int
    head_bytes: int
    kv_bytes_per_token: int
    windows: tuple[int, ...]  # [layer], tokens a layer looks back at most; 0: all

    @classmethod
    def of(cls, file: _core.GgufFile, kv_bytes_per_token: int) -> Work:
        matrices = {tensor.name: tensor for tensor in file.tensors if len(tensor.shape) > 1}
        head = "output.weight" if "output.weight" in matrices else "token_embd.weight"
        body = [tensor for name, tensor in matrices.items() if name.startswith("blk.")]
        heads = [matrices[head]] if head in matrices else []
        return cls(
            body_weights=sum(math.prod(tensor.shape) for tensor in body),
            body_bytes=sum(tensor.n_bytes for tensor in body),
            head_weights=sum(math.prod(tensor.shape) for tensor in heads),
            head_bytes=sum(tensor.n_bytes for tensor in heads),
            kv_bytes_per_token=kv_bytes_per_token,
            windows=_windows(file),
        )

    def kv_bytes(self, context: float) -> float:
        """Keys and values that one token at the end of `context` tokens looks at."""
        seen = sum(min(context, window or context) for window in self.windows)
        return self.kv_bytes_per_token * seen / len(self.windows)

    def decode(self, tokens: int, batch: int, context: int) -> Need:
        """`tokens` steps of `batch` sequences, each after `context` tokens."""
        keys = batch * self.kv_bytes(context + tokens / 2)
        weights = self.body_weights + self.head_weights
        return Need(tokens * (self.body_bytes + self.head_bytes + keys), 2.0 * tokens * batch * weights)

    def prompt(self, tokens: int, context: int) -> Need:
        """Reading `tokens` tokens after `context` others, up to one row of logits."""
        starts = range(0, tokens, CHUNK)
        keys = sum(self.kv_bytes(context + min(start + CHUNK, tokens)) for start in starts)
        operations = 2.0 * (self.body_weights * tokens + self.head_weights)
        return Need(len(starts) * self.body_bytes + self.head_bytes + keys, operations)


def _windows(file: _core.GgufFile) -> tuple[int, ...]:
    architecture = file.get("general.architecture")

    def value(key: str) -> Any:
        return file.get(f"{architecture}.{key}")

    layers = int(value("block_count"))
    if architecture != "gemma3":
        return (0,) * layers
    window, pattern = int(value("attention.sliding_window")), value("attention.sliding_window_pattern")
    if pattern is None or isinstance(pattern, int):
        every = pattern or 6
        return tuple(0 if (layer + 1) % every == 0 else window for layer in range(layers))
    return tuple(window if local else 0 for local in pattern)
