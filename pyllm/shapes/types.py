"""Which type each tensor has in a file of one type or of a mix such as q4_k_m."""

from __future__ import annotations

import math

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.mixes import MIXES, Facts, fitting, is_head, mixed_type
from pyllm.shapes.shape import Shape, tensor_shapes


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
    """What `quant` makes of a tensor."""
    if len(dims) == 1:
        return GGMLQuantizationType.F32
    columns = dims[-1]
    if quant in MIXES:
        facts = Facts(layers=shape.layers, group=shape.heads // shape.kv_heads, tied=shape.tied)
        return fitting(mixed_type(MIXES[quant], name, facts), columns, is_head(name, facts))
    kind = GGMLQuantizationType[quant.upper()]
    if columns % GGML_QUANT_SIZES[kind][0]:
        raise PyllmError(
            f"{name}: {columns} columns are not a multiple of {kind.name}'s {GGML_QUANT_SIZES[kind][0]}"
        )
    return kind
