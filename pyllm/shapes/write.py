"""Writes the files."""

from __future__ import annotations

import math
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from pyllm.errors import PyllmError
from pyllm.shapes.shape import ARCHITECTURES, Shape, model_metadata
from pyllm.shapes.types import tensor_types
from pyllm.shapes.vocabulary import byte_vocabulary, copied_vocabulary
from pyllm.shapes.weights import tensor_data


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

    tensors = tensor_types(shape, quant)
    writer = gguf.GGUFWriter(None, shape.arch)
    for key, value in metadata.items():
        put(writer, key, value)
    for name, dims, kind in tensors:
        block, size = GGML_QUANT_SIZES[kind]
        stored = (*dims[:-1], dims[-1] // block * size)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), kind)
    try:
        writer.write_header_to_file(Path(path))
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with open(path, "ab") as file:
        for name, dims, kind in tensors:
            pad(file)
            for piece in tensor_data(name, dims, kind, shape, seed, std):
                file.write(piece.data)
        pad(file)
    return Path(path)


def pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        writer.kv_data[0].pop(key, None)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_uint32 if value >= 0 else writer.add_int32)(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
