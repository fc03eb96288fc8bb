"""Which type each tensor has in a file of one type or of a mix such as q4_k_m."""

from __future__ import annotations

import math

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.shapes.shape import Shape, tensor_shapes

MIXES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")


def tensor_types(shape: Shape, quant: str) -> list[tuple[str, tuple[int, ...], GGMLQuantizationType]]:
    """(name, shape, type) of every tensor. PyllmError for a `quant` that is unknown or does not fit."""
    if quant not in MIXES and quant.upper() not in _core.quant_types():
        types = ", ".join(name.lower() for name in _core.quant_types())
        raise PyllmError(f"unknown type {quant!r}: expected a mix ({', '.join(MIXES)}) or a type ({types})")
    return [(name, dims, tensor_type(quant, name, dims, shape)) for name, dims in tensor_shapes(shape)]


def file_bytes(shape: Shape, quant: str) -> int:
    """About the size of the file: all its tensors, and the vocabulary."""
    total = 40 * shape.vocab
    for _, dims, kind in tensor_types(shape, quant):
        block, size = GGML_QUANT_SIZES[kind]
        total += math.prod(dims) // block * size
    return total


def tensor_type(quant: str, name: str, dims: tuple[int, ...], shape: Shape) -> GGMLQuantizationType:
    """What `quant` makes of a tensor. Mixes follow llama.cpp, also where a row is no multiple of 256."""
    if len(dims) == 1:
        return GGMLQuantizationType.F32
    columns = dims[-1]
    if quant not in MIXES:
        kind = GGMLQuantizationType[quant.upper()]
        if columns % GGML_QUANT_SIZES[kind][0]:
            raise PyllmError(
                f"{name}: {columns} columns are not a multiple of {kind.name}'s {GGML_QUANT_SIZES[kind][0]}"
            )
        return kind
    chosen = mixed_type(quant, name, shape)
    if columns % GGML_QUANT_SIZES[GGMLQuantizationType[chosen]][0]:
        chosen = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}.get(chosen, "F16")
    if columns % GGML_QUANT_SIZES[GGMLQuantizationType[chosen]][0]:
        chosen = "F16"
    return GGMLQuantizationType[chosen]


def mixed_type(mix: str, name: str, shape: Shape) -> str:
    base = {"q5_k_m": "Q5_K", "q4_k_m": "Q4_K"}.get(mix, mix.upper())
    if base in ("F16", "Q8_0", "Q6_K"):
        return base
    if name == ("token_embd.weight" if shape.tied else "output.weight"):
        return "Q6_K"
    layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
    eighth = shape.layers // 8
    if mix in ("q4_k_m", "q5_k_m") and name.endswith(("attn_v.weight", "ffn_down.weight")):
        more = layer < eighth or layer >= 7 * shape.layers // 8 or (layer - eighth) % 3 == 2
        return "Q6_K" if more else base
    if mix == "iq4_xs":
        wide = name.endswith("attn_v.weight") and shape.heads >= 4 * shape.kv_heads
        if wide or (name.endswith("ffn_down.weight") and layer < eighth):
            return "Q5_K"
    return base
