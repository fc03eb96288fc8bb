"""What a model needs of memory, by the header of its file: nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm import _core

BLOCK = 16  # tokens of a KV block
LOGITS_BYTES = 64 << 20  # of one step at most, unless it is one row


@dataclass(frozen=True)
class Size:
    """Bytes of some weights in the file, as the CPU keeps them, and in a GPU's memory. None: not for a GPU."""

    file: int = 0
    host: int = 0
    device: int | None = 0

    def __add__(self, other: Size) -> Size:
        both = None if self.device is None or other.device is None else self.device + other.device
        return Size(self.file + other.file, self.host + other.host, both)


@dataclass(frozen=True)
class Needs:
    """A model's sizes in bytes. layers, kv_block: of each layer; kv_block: keys and values of BLOCK tokens.

    embedding: the table that rows are read from. head: what comes after the layers. row_floats: numbers that a
    step keeps for each of its tokens, about.
    """

    context_length: int
    vocab: int
    layers: tuple[Size, ...]
    embedding: Size
    head: Size
    kv_block: tuple[int, ...]
    row_floats: int

    @classmethod
    def of(
        cls, file: _core.GgufFile, kv_type: str = "f16", *, pack: bool = True, device: bool = False
    ) -> Needs:
        """device: a GPU's library is there to ask. PyllmError when the file is no model that can be run."""
        from pyllm import _core

        count = _core.layer_count(file)
        layers, head, embedding = [Size()] * count, Size(), Size()
        tensors = {tensor.name: tensor for tensor in file.tensors}
        for name, tensor in tensors.items():
            size = _size(tensor, pack, device)
            if name.startswith("blk."):
                number = name.split(".")[1]
                if number.isdecimal() and int(number) < count:
                    layers[int(number)] += size
            elif name == "token_embd.weight":
                embedding = Size(tensor.n_bytes, tensor.n_bytes, tensor.n_bytes)
                if "output.weight" not in tensors:
                    head += size
            else:
                head += size
        shape = _Shape(file, count)
        return cls(
            context_length=shape.largest("context_length"),
            vocab=tensors["token_embd.weight"].shape[-1],
            layers=tuple(layers),
            embedding=embedding,
            head=head,
            kv_block=tuple(_core.kv_block_bytes(kv_type, heads, shape.head_dim) for heads in shape.kv_heads),
            row_floats=shape.row_floats(),
        )

    def kv_bytes_per_token(self) -> int:
        return sum(self.kv_block) // BLOCK

    def scratch_bytes(self, max_batch_tokens: int, max_sequences: int) -> int:
        """What the largest step computes beside weights, keys and values; a rough upper bound."""
        logits = max(1, min(max_sequences, LOGITS_BYTES // (4 * max(1, self.vocab))))
        return 4 * (max_batch_tokens * self.row_floats + logits * self.vocab)


def _size(tensor: _core.TensorInfo, pack: bool, device: bool) -> Size:
    from pyllm import _core

    if len(tensor.shape) < 2:
        floats = 4 * math.prod(tensor.shape)
        return Size(tensor.n_bytes, floats, floats)
    cols, rows = tensor.shape[0], math.prod(tensor.shape[1:])
    host = _core.matrix_bytes(tensor.type, rows, cols) if pack else tensor.n_bytes
    there = _core.matrix_bytes(tensor.type, rows, cols, on_device=True) if device else tensor.n_bytes
    return Size(tensor.n_bytes, host if host >= 0 else tensor.n_bytes, there if there >= 0 else None)


class _Shape:
    """What the header's metadata says about the sizes of what a step computes."""

    def __init__(self, file: _core.GgufFile, layers: int) -> None:
        self._file = file
        self._architecture = file.get("general.architecture")
        heads = self.largest("attention.head_count")
        kv_heads = self._numbers("attention.head_count_kv") or (heads,)
        if len(kv_heads) not in (1, layers):
            raise PyllmError(
                f"{self._architecture}.attention.head_count_kv: expected a number, or one for each of {layers} "
                f"layers, the file has {len(kv_heads)}"
            )
        self.kv_heads = kv_heads * (layers if len(kv_heads) == 1 else 1)
        keys = self._numbers("attention.key_length")
        self.head_dim = max(keys) if keys else max(1, self.largest("embedding_length") // heads)

    def largest(self, key: str) -> int:
        found = self._numbers(key)
        if not found:
            raise PyllmError(f"{self._architecture}.{key}: expected a number, the file has none")
        return max(found)

    def row_floats(self) -> int:
        """The stream and its copy at a border; queries, keys and values, and what attention makes of them; the
        feed-forward's two halves and their product; each input once more in the form that products take."""
        dim, ffn = self.largest("embedding_length"), self.largest("feed_forward_length")
        heads, kv = self.largest("attention.head_count") * self.head_dim, max(self.kv_heads) * self.head_dim
        return 4 * dim + 3 * heads + 2 * kv + 4 * ffn + 4 * self.head_dim

    def _numbers(self, key: str) -> tuple[int, ...]:
        """One for all layers, or for each its own; nothing where the file has none."""
        name = f"{self._architecture}.{key}"
        value: Any = self._file.get(name)
        if value is None:
            return ()
        if isinstance(value, int):
            numbers: tuple[float, ...] = (value,)
        elif isinstance(value, (float, str)):
            raise PyllmError(f"{name}: expected a whole number, the file has {value!r}")
        else:
            numbers = tuple(self._file.numbers(name) or ())
        if not numbers or not all(1 <= number < 1 << 31 for number in numbers):
            raise PyllmError(f"{name}: expected numbers of at least 1, the file has {value}")
        return tuple(int(number) for number in numbers)
