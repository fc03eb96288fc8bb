"""Writes GGUF models of any size with random weights, for tests and benches.

As a program:  python tests/shapes.py llama-1b q4_k_m model.gguf [--tokenizer real.gguf]
In a test:     write_model(tmp_path / "tiny.gguf", arch="qwen3", quant="Q6_K")

Blocks of types that the gguf package can not quantize to are random bytes under scales chosen so that the
weights have the standard deviation asked for. The same arguments give the same file.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, TokenType
from numpy.typing import NDArray

MIXES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")


@dataclass(frozen=True)
class Shape:
    """A model's sizes. head_dim None: dim / heads, and the file does not say so."""

    arch: str = "llama"
    dim: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    vocab: int = 320
    head_dim: int | None = None
    tied: bool = False
    context: int = 2048
    freq_base: float = 10000.0
    sliding_window: int = 64  # gemma3 only
    llama3_rope_factor: float | None = None  # Llama 3.1's and 3.2's stretched RoPE, as a tensor of factors

    @property
    def head(self) -> int:
        return self.head_dim or self.dim // self.heads


PRESETS = {
    "llama-1b": Shape(
        "llama", 2048, 16, 32, 8, 8192, 128256, 64, True, 131072, 5e5, llama3_rope_factor=32.0
    ),  # Llama 3.2 1B
    "llama-8b": Shape("llama", 4096, 32, 32, 8, 14336, 128256, 128, False, 131072, 5e5, llama3_rope_factor=8.0),
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 1536, 49152, None, True, 8192, 1e5),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, None, True, 32768, 1e6),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 3072, 151936, 128, True, 40960, 1e6),
    "gemma3-270m": Shape("gemma3", 640, 18, 4, 1, 2048, 262144, 256, True, 32768, 1e6, 512),
}


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

    quant: a type such as "Q4_K" for every matrix, or a mix of MIXES such as "q4_k_m".
    tokenizer: a GGUF file to copy the vocabulary from, padded with unused tokens up to `vocab`; without it the
    vocabulary is byte-level. extra_metadata overrides or adds keys; a key without the prefixes "general.",
    "tokenizer." or the architecture's gets the latter, and None leaves the key out.
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
        raise ValueError(f"arch: expected one of {', '.join(ARCHITECTURES)}, got {shape.arch!r}")
    words = copied_vocabulary(tokenizer, shape.vocab) if tokenizer else byte_vocabulary(shape.vocab or 320)
    shape = replace(shape, vocab=len(words["tokenizer.ggml.tokens"]))
    metadata = model_metadata(shape) | words
    for key, value in extra_metadata.items():
        known = key.startswith(("general.", "tokenizer.", f"{shape.arch}."))
        metadata[key if known else f"{shape.arch}.{key}"] = value

    writer = gguf.GGUFWriter(None, shape.arch)
    for key, value in metadata.items():
        put(writer, key, value)
    tensors = [(name, dims, tensor_type(quant, name, dims, shape)) for name, dims in tensor_shapes(shape)]
    for name, dims, kind in tensors:
        block, size = GGML_QUANT_SIZES[kind]
        stored = (*dims[:-1], dims[-1] // block * size)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)
    writer.write_header_to_file(Path(path))
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for name, dims, kind in tensors:
        writer.write_tensor_data(tensor_data(name, dims, kind, shape, rng, std))
    writer.close()
    return Path(path)


def model_metadata(shape: Shape) -> dict[str, Any]:
    hyper: dict[str, Any] = {
        "context_length": shape.context,
        "embedding_length": shape.dim,
        "block_count": shape.layers,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": shape.freq_base,
    }
    if shape.head_dim:
        hyper |= {"attention.key_length": shape.head, "attention.value_length": shape.head}
    if shape.arch == "llama":
        hyper |= {"vocab_size": shape.vocab, "rope.dimension_count": shape.head}
    if shape.arch == "gemma3":
        hyper["attention.sliding_window"] = shape.sliding_window
    return {"general.name": "random weights"} | {f"{shape.arch}.{key}": value for key, value in hyper.items()}


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, [rows, columns] for a matrix."""
    dim, q, kv = shape.dim, shape.heads * shape.head, shape.kv_heads * shape.head
    yield "token_embd.weight", (shape.vocab, dim)
    yield "output_norm.weight", (dim,)
    if not shape.tied:
        yield "output.weight", (shape.vocab, dim)
    if shape.llama3_rope_factor:
        yield "rope_freqs.weight", (shape.head // 2,)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (dim,)
        yield block + "attn_q.weight", (q, dim)
        yield block + "attn_k.weight", (kv, dim)
        yield block + "attn_v.weight", (kv, dim)
        yield block + "attn_output.weight", (dim, q)
        if shape.arch == "qwen2":
            yield block + "attn_q.bias", (q,)
            yield block + "attn_k.bias", (kv,)
            yield block + "attn_v.bias", (kv,)
        if shape.arch in ("qwen3", "gemma3"):
            yield block + "attn_q_norm.weight", (shape.head,)
            yield block + "attn_k_norm.weight", (shape.head,)
        if shape.arch == "gemma3":
            yield block + "post_attention_norm.weight", (dim,)
            yield block + "post_ffw_norm.weight", (dim,)
        yield block + "ffn_norm.weight", (dim,)
        yield block + "ffn_gate.weight", (shape.ffn, dim)
        yield block + "ffn_up.weight", (shape.ffn, dim)
        yield block + "ffn_down.weight", (dim, shape.ffn)


def tensor_type(quant: str, name: str, dims: tuple[int, ...], shape: Shape) -> GGMLQuantizationType:
    """What `quant` makes of a tensor. Mixes follow llama.cpp, also where a row is no multiple of 256."""
    if len(dims) == 1:
        return GGMLQuantizationType.F32
    columns = dims[-1]
    if quant not in MIXES:
        kind = GGMLQuantizationType[quant]
        if columns % GGML_QUANT_SIZES[kind][0]:
            raise ValueError(
                f"{name}: {columns} columns are not a multiple of {quant}'s {GGML_QUANT_SIZES[kind][0]}"
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


def tensor_data(
    name: str,
    dims: tuple[int, ...],
    kind: GGMLQuantizationType,
    shape: Shape,
    rng: np.random.Generator,
    std: float,
) -> NDArray[Any]:
    if name == "rope_freqs.weight":
        return llama3_rope_factors(shape)
    if name.endswith("norm.weight"):
        return (1 + 0.1 * rng.standard_normal(dims, np.float32)).astype(np.float32)
    return random_weights(kind.name, int(np.prod(dims)), rng, std)


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
        out = np.empty(count, {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[kind])
        for first in range(0, count, 1 << 22):
            part = out[first : first + (1 << 22)]
            normal = rng.standard_normal(part.size, np.float32) * np.float32(std)
            part[:] = normal.view(np.uint32) >> 16 if kind == "BF16" else normal
        return out.view(np.uint8)
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    blocks = random_blocks(kind, count // block, rng)
    scale = std / unit_deviation(kind) * rng.uniform(0.6, 1.4, len(blocks)) * rng.choice([-1, 1], len(blocks))
    set_scales(kind, blocks, scale)
    return blocks.reshape(-1)


def random_blocks(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[count, block bytes], all random but for mins, which equal their scales."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    raw = rng.integers(0, 1 << 64, (count * size + 7) // 8, np.uint64).view(np.uint8)[: count * size]
    blocks = raw.reshape(count, size)
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
    return float(gguf.quants.dequantize(blocks, GGMLQuantizationType[kind]).std())


def byte_vocabulary(size: int) -> dict[str, Any]:
    """A byte-level BPE vocabulary: three control tokens, the bytes, merges of letters, unused tokens."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    invisible = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(invisible)}
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *(letters[byte] for byte in range(256))]
    if size < len(tokens):
        raise ValueError(f"vocab: expected at least {len(tokens)}, got {size}")
    common = "etaoinshrdlucmfwypvbgkjqxz"
    pairs = itertools.chain(itertools.product([letters[32]], common), itertools.product(common, common))
    merges = list(itertools.islice(pairs, size - len(tokens)))
    tokens += [left + right for left, right in merges]
    kinds = [TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (len(tokens) - len(control))
    unused = size - len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [f"[unused{i}]" for i in range(unused)],
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds] + [int(TokenType.UNUSED)] * unused,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges] or None,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
        ),
    }


def copied_vocabulary(path: str | PathLike[str], size: int) -> dict[str, Any]:
    """The tokenizer's keys of a GGUF file, with unused tokens up to `size`."""
    from pyllm._core import GgufFile  # the gguf package's reader takes seconds on a real vocabulary

    source = GgufFile(path)
    keys = [key for key in source.keys() if key.startswith("tokenizer.")]  # noqa: SIM118
    words = {key: source.get(key) for key in keys}
    for key, value in words.items():
        if isinstance(value, np.ndarray):
            words[key] = value.tolist()
        elif isinstance(value, list):
            words[key] = source.string_bytes(key)
    count = len(words["tokenizer.ggml.tokens"])
    if size and size < count:
        raise ValueError(f"vocab: expected at least the {count} tokens of {path}, got {size}")
    unused = size - count if size else 0
    fill = {"tokens": [f"[unused{i}]" for i in range(unused)], "scores": [-1e3] * unused}
    fill["token_type"] = [int(TokenType.UNUSED)] * unused
    for key, values in fill.items():
        if f"tokenizer.ggml.{key}" in words:
            words[f"tokenizer.ggml.{key}"] += values
    return words


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF model with random weights.")
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("quant", help=f"a type such as Q4_K, or one of {', '.join(MIXES)}")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="GGUF file to copy the vocabulary from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = PRESETS[args.preset]
    write_shape(args.path, shape, args.quant, seed=args.seed, tokenizer=args.tokenizer)
    print(f"{args.path}: {args.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
