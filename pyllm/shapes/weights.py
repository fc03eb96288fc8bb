"""Random weights of every type."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.shapes.shape import Shape

CHUNK = 1 << 22  # weights made at once, a multiple of every block


def tensor_data(
    name: str, dims: tuple[int, ...], kind: GGMLQuantizationType, shape: Shape, seed: int, std: float
) -> Iterator[NDArray[Any]]:
    """A tensor's bytes, in pieces. They depend on its name and the seed, not on other tensors."""
    if name == "rope_freqs.weight":
        yield llama3_rope_factors(shape)
        return
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("norm.weight"):
        yield (1 + 0.1 * rng.standard_normal(dims, np.float32)).astype(np.float32)
        return
    count = math.prod(dims)
    for first in range(0, count, CHUNK):
        yield random_weights(kind.name, min(CHUNK, count - first), rng, std)


def llama3_rope_factors(shape: Shape, original_context: int = 8192) -> NDArray[np.float32]:
    """By how much Llama 3.1 slows each rotation down, [head / 2]: slow ones fully, fast ones not at all."""
    turns = original_context / (2 * np.pi) * shape.freq_base ** (-2 * np.arange(shape.head // 2) / shape.head)
    blend = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - blend) / (shape.llama3_rope_factor or 1) + blend)).astype(np.float32)


# Where a block keeps its half d, and where its half m or dmin and how many d that is for a mean near zero.
D_AT = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208, "TQ1_0": 52, "TQ2_0": 64}  # others: 0
MIN_AT = {"Q4_1": (2, -7.5), "Q5_1": (2, -15.5), "Q2_K": (82, 1.5), "Q4_K": (2, 7.5), "Q5_K": (2, 15.5)}


def random_weights(kind: str, count: int, rng: np.random.Generator, std: float) -> NDArray[np.uint8]:
    """`count` weights of a type as their bytes, with mean 0 and about the standard deviation `std`."""
    if kind in ("F32", "F16", "BF16"):
        normal: NDArray[Any] = rng.standard_normal(count, np.float32) * np.float32(std)
        if kind == "BF16":
            normal = (normal.view(np.uint32) >> 16).astype(np.uint16)
        elif kind == "F16":
            normal = normal.astype(np.float16)
        return normal.view(np.uint8)
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    blocks = random_blocks(kind, count // block, rng)
    scale = std / unit_deviation(kind) * rng.uniform(0.6, 1.4, len(blocks)) * rng.choice([-1, 1], len(blocks))
    set_scales(kind, blocks, scale)
    return blocks.reshape(-1)


def random_blocks(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[count, block bytes], all random but for mins, which equal their scales."""
    size: int = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    words: NDArray[np.uint64] = rng.integers(0, 1 << 64, (count * size + 7) // 8, np.uint64)
    blocks = words.view(np.uint8)[: count * size].reshape(count, size)
    if kind == "Q2_K":
        blocks[:, :16] = (blocks[:, :16] & 15) * 17
    if kind in ("Q4_K", "Q5_K"):
        blocks[:, 8:12] = blocks[:, 4:8]
        blocks[:, 12:16] = (blocks[:, 12:16] & 15) * 17
    return blocks


def set_scales(kind: str, blocks: NDArray[np.uint8], scale: NDArray[np.float64]) -> None:
    """Sets each block's d to `scale`, and its m or dmin to go with it."""
    if kind == "MXFP4":  # a power of two, doubled values
        blocks[:, 0] = np.round(np.log2(np.abs(scale))) + 128
        return
    halves = scale.astype("<f2")
    if kind == "IQ1_M":  # a nibble on top of each of four words
        for i in range(4):
            nibble = halves.view("<u2") >> 4 * i & 15
            blocks[:, 49 + 2 * i] = (blocks[:, 49 + 2 * i] & 15) | nibble << 4
        return
    at = D_AT.get(kind, 0)
    blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if kind in MIN_AT:
        at, ratio = MIN_AT[kind]
        blocks[:, at : at + 2] = (scale * ratio).astype("<f2").view(np.uint8).reshape(-1, 2)


@functools.cache
def unit_deviation(kind: str) -> float:
    """Standard deviation of random blocks whose d is 1."""
    blocks = random_blocks(kind, 1000, np.random.default_rng(0))
    set_scales(kind, blocks, np.ones(1000))
    return float(_core.dequantize(kind, blocks, 1000 * GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]).std())
