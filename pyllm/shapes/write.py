"""Writes the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf.constants import GGMLQuantizationType

from pyllm.errors import PyllmError
from pyllm.gguf_writer import Tensor, typed, write_gguf
from pyllm.shapes.shape import ARCHITECTURES, Shape, model_metadata
from pyllm.shapes.types import tensor_types
from pyllm.shapes.vocabulary import byte_vocabulary, copied_vocabulary
from pyllm.shapes.weights import tensor_data

if TYPE_CHECKING:
    from pyllm._core import Buffer


def write_model(
    path: str | PathLike[str],
    arch: str = "llama",
    *,
    dim: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 512,
    vocab: int | None = None,
    head_dim: int | None = None,
    tied: bool | None = None,
    context: int = 2048,
    quant: str = "Q4_K",
    std: float = 0.03,
    seed: int = 0,
    tokenizer: str | PathLike[str] | None = None,
    **extra_metadata: Any,
) -> Path:
    """Writes a model with random weights and returns its path.

    quant: a type such as "Q4_K" (in any case) for every matrix, or a mix of MIXES such as "q4_k_m".
    tokenizer: a GGUF file to copy the vocabulary from, padded with unused tokens up to `vocab`; without it the
    vocabulary is byte-level. extra_metadata overrides or adds keys; a key without the prefixes "general.",
    "tokenizer." or the architecture's gets the latter, and None leaves the key out.
    PyllmError for what does not fit together.
    """
    shape = Shape(
        arch=arch,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocab=vocab or 0,
        head_dim=head_dim or (dim // heads if arch in ("qwen3", "gemma3") else None),
        tied=arch == "gemma3" if tied is None else tied,
        context=context,
    )
    return write_shape(path, shape, quant, std=std, seed=seed, tokenizer=tokenizer, **extra_metadata)


def write_shape(
    path: str | PathLike[str],
    shape: Shape,
    quant: str,
    *,
    std: float = 0.03,
    seed: int = 0,
    tokenizer: str | PathLike[str] | None = None,
    **extra_metadata: Any,
) -> Path:
    """As write_model, for a Shape such as PRESETS["llama-1b"]; vocab 0: as large as the vocabulary needs."""
    if shape.arch not in ARCHITECTURES:
        raise PyllmError(f"arch: expected one of {', '.join(ARCHITECTURES)}, got {shape.arch!r}")
    words = copied_vocabulary(tokenizer, shape.vocab) if tokenizer else byte_vocabulary(shape.vocab or 320)
    shape = replace(shape, vocab=len(words["tokenizer.ggml.tokens"]))
    metadata = model_metadata(shape) | words
    for key, value in extra_metadata.items():
        known = key.startswith(("general.", "tokenizer.", f"{shape.arch}."))
        metadata[key if known else f"{shape.arch}.{key}"] = value

    def pieces(name: str, dims: tuple[int, ...], kind: GGMLQuantizationType) -> Callable[[], Iterable[Buffer]]:
        return lambda: (piece.data for piece in tensor_data(name, dims, kind, shape, seed, std))

    tensors = [Tensor(*tensor, pieces(*tensor)) for tensor in tensor_types(shape, quant)]
    typed_metadata = {key: typed(value) for key, value in metadata.items() if value is not None}
    write_gguf(Path(path), shape.arch, typed_metadata, tensors)
    return Path(path)
