"""The sizes of known models: every tensor's name and shape, and the metadata that goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


# Sizes as the models' own configurations have them.
PRESETS = {
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 1536, 49152, None, True, 8192, 1e5),
    "llama-1b": Shape(
        "llama", 2048, 16, 32, 8, 8192, 128256, 64, True, 131072, 5e5, llama3_rope_factor=32.0
    ),  # Llama 3.2
    "llama-3b": Shape(
        "llama", 3072, 28, 24, 8, 8192, 128256, 128, True, 131072, 5e5, llama3_rope_factor=32.0
    ),  # Llama 3.2
    "llama-8b": Shape(
        "llama", 4096, 32, 32, 8, 14336, 128256, 128, False, 131072, 5e5, llama3_rope_factor=8.0
    ),  # Llama 3.1
    "mistral-7b": Shape("llama", 4096, 32, 32, 8, 14336, 32768, 128, False, 32768, 1e6),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, None, True, 32768, 1e6),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, None, False, 32768, 1e6),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 3072, 151936, 128, True, 40960, 1e6),
    "qwen3-4b": Shape("qwen3", 2560, 36, 32, 8, 9728, 151936, 128, True, 40960, 1e6),
    "qwen3-8b": Shape("qwen3", 4096, 36, 32, 8, 12288, 151936, 128, False, 40960, 1e6),
    "gemma3-270m": Shape("gemma3", 640, 18, 4, 1, 2048, 262144, 256, True, 32768, 1e6, 512),
    "gemma3-1b": Shape("gemma3", 1152, 26, 4, 1, 6912, 262144, 256, True, 32768, 1e6, 512),
}


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
