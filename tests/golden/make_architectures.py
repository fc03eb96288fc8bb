"""Writes the golden files of tests/test_architectures.py: tiny random models and their logits by transformers.

python tests/golden/make_architectures.py            # all, into tests/golden/architectures
python tests/golden/make_architectures.py qwen3 ...  # only these

For each case: NAME.gguf (float32 weights under the names and in the layout of published GGUF files) and
NAME.npz (`tokens` int32 [token]; `states` float32 [token, dim], hidden states after the final norm; float32
[token, vocab]: `logits`, and `logits_f16_cache`, the same with keys and values rounded to float16 as a float16
cache does). llama.cpp reads every file back and must agree with
transformers, so that a mistake in the conversion here cannot pass for the truth.
Needs torch, transformers >= 5, gguf and llama-cpp-python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
OUT = HERE / "architectures"
sys.path.insert(0, str(HERE.parent / "oracle"))

VOCAB = 260  # 256 bytes, two merged pairs, begin, end: no multiple of 16
# llama.cpp against transformers, relative to the largest |logit|; 1e-6 where no GELU table rounds.
AGREEMENT = 3e-4

TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class Case:
    """One golden model: `config` for transformers, `extra` metadata beyond what every file has."""

    architecture: str  # of the GGUF file
    build: Callable[..., Any]  # transformers' configuration class
    config: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)  # key without the architecture -> value
    tokens: int = 32


def rope(kind: str, theta: float, **values: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **values}


def sizes(dim: int, heads: int, kv_heads: int, ff: int, layers: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ff,
        "num_hidden_layers": layers,
        **more,
    }


LLAMA, MISTRAL = transformers.LlamaConfig, transformers.MistralConfig
QWEN2, QWEN3, GEMMA3 = transformers.Qwen2Config, transformers.Qwen3Config, transformers.Gemma3TextConfig
CASES = {
    # head_dim 12: no power of two, no multiple of 8
    "llama": Case("llama", LLAMA, sizes(48, 4, 2, 80, rope_parameters=rope("default", 10000.0))),
    "llama-tied-bias": Case(
        "llama",
        LLAMA,
        sizes(
            48,
            3,
            3,
            72,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters=rope("default", 10000.0),
        ),
    ),
    # 8 frequencies: one kept, two blended, five divided
    "llama-llama3-rope": Case(
        "llama",
        LLAMA,
        sizes(
            48,
            3,
            1,
            80,
            rope_parameters=rope(
                "llama3",
                500.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
    "llama-linear-rope": Case(
        "llama",
        LLAMA,
        sizes(48, 3, 3, 80, rope_parameters=rope("linear", 10000.0, factor=4.0)),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama-yarn": Case(
        "llama",
        LLAMA,
        sizes(
            48,
            3,
            1,
            80,
            rope_parameters=rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=64),
        ),
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    # 3 heads of 20 in a model 48 wide
    "mistral": Case(
        "llama",
        MISTRAL,
        sizes(48, 3, 1, 80, head_dim=20, sliding_window=None, rope_parameters=rope("default", 1e6)),
    ),
    "qwen2": Case(
        "qwen2",
        QWEN2,
        sizes(48, 4, 2, 80, tie_word_embeddings=True, rope_parameters=rope("default", 1e6)),
    ),
    "qwen3": Case("qwen3", QWEN3, sizes(48, 4, 2, 80, head_dim=24, rope_parameters=rope("default", 1e6))),
    # the ends of the ramp given in the file, and rotation by halves
    "qwen3-yarn": Case(
        "qwen3",
        QWEN3,
        sizes(
            48,
            2,
            1,
            64,
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters=rope(
                "yarn",
                1000.0,
                factor=8.0,
                original_max_position_embeddings=256,
                beta_fast=16.0,
                beta_slow=2.0,
            ),
        ),
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 256,
            "rope.scaling.yarn_beta_fast": 16.0,
            "rope.scaling.yarn_beta_slow": 2.0,
        },
    ),
    # the window is far smaller than the text; layer 5 is global; local base and pattern are not in the file
    "gemma3": Case(
        "gemma3",
        GEMMA3,
        sizes(
            36,
            2,
            1,
            64,
            layers=7,
            head_dim=20,
            query_pre_attn_scalar=20,
            sliding_window=9,
            rope_parameters={
                "full_attention": rope("default", 1e6),
                "sliding_attention": rope("default", 10000.0),
            },
        ),
        tokens=48,
    ),
    # as Gemma 3 4B and up: global layers scaled; here the local base and the pattern come from the file
    "gemma3-linear-rope": Case(
        "gemma3",
        GEMMA3,
        sizes(
            36,
            4,
            2,
            64,
            layers=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=16,
            sliding_window_pattern=3,
            rope_parameters={
                "full_attention": rope("linear", 50000.0, factor=8.0),
                "sliding_attention": rope("default", 5000.0),
            },
        ),
        {
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "rope.freq_base_swa": 5000.0,
            "attention.sliding_window_pattern": 3,
        },
        tokens=48,
    ),
    # 62 layers mean Gemma 3 27B, whose queries are scaled by dim / heads (here 8) and not by head_dim (here 4)
    "gemma3-62-layers": Case(
        "gemma3",
        GEMMA3,
        sizes(
            16,
            2,
            1,
            16,
            layers=62,
            head_dim=4,
            query_pre_attn_scalar=8,
            sliding_window=12,
            rope_parameters={
                "full_attention": rope("default", 1e6),
                "sliding_attention": rope("default", 10000.0),
            },
        ),
    ),
}


def randomize(model: torch.nn.Module, gemma: bool, seed: int) -> None:
    """Weights that matter: attention far from uniform, norms far from one, no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if gemma and "layernorm" in name and "post" in name:
            gain = (2 * model.config.num_hidden_layers) ** -0.5  # 62 layers must not grow rounding into chaos
            value = gain * (1 + 0.3 * noise) - 1
        elif "norm" in name:
            value = 0.3 * noise + (0.0 if gemma else 1.0)
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name:
            value = noise / (weight.shape[1] ** 0.5 if gemma else 1.0)
        else:
            gain = 1.2 if "q_proj" in name or "k_proj" in name else 1.0
            value = noise * gain / weight.shape[1] ** 0.5
        weight.data.copy_(value)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the output rows of each head so that rotation pairs (i, i + half) lie side by side."""
    head_dim = len(rows) // heads
    order = np.arange(head_dim).reshape(2, head_dim // 2).T.reshape(-1)
    index = (np.arange(heads)[:, None] * head_dim + order).reshape(-1)
    return rows[index]


def gguf_tensors(case: Case, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The model's weights under GGUF names, in GGUF layout."""
    config = model.config
    gemma = case.architecture == "gemma3"
    out = {}
    for name, weight in model.named_parameters():
        value = weight.detach().numpy()
        stem, kind = name.rsplit(".", 1)
        if stem in TOP:
            target = TOP[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            if part == "post_attention_layernorm":
                part = "post_attention_norm" if gemma else "ffn_norm"
            target = f"blk.{layer}.{TENSORS.get(part, part)}"
        if gemma and "norm" in target:
            value = value + 1
        if case.architecture == "llama" and target.endswith("attn_q"):
            value = interleave(value, config.num_attention_heads)
        if case.architecture == "llama" and target.endswith("attn_k"):
            value = interleave(value, config.num_key_value_heads)
        out[f"{target}.{kind}"] = np.ascontiguousarray(value, np.float32)
    if config.rope_parameters.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_factors(config)
    return out


def llama3_factors(config: Any) -> np.ndarray:
    """What each rotation frequency is divided by (Llama 3.1's `rope_scaling`): float32 [head_dim / 2]."""
    p = config.rope_parameters
    exponent = np.arange(0, config.head_dim, 2) / config.head_dim
    turns = p["original_max_position_embeddings"] / (2 * np.pi * p["rope_theta"] ** exponent)
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / p["factor"] + smooth)).astype(np.float32)


def byte_tokens() -> list[str]:
    """GPT-2's 256 byte characters: printable bytes stand for themselves, the others are shifted past 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + rest.index(b)) for b in range(256)]


def write(path: Path, name: str, case: Case, model: torch.nn.Module) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, case.architecture)
    writer.add_name(f"random {name}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size or case.architecture in ("qwen3", "gemma3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if case.architecture == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(VOCAB)
    rope_parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope_parameters["rope_theta"])
    if case.architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    for key, value in case.extra.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{case.architecture}.{key}", value)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_tokens(), "th", "in", "<s>", "</s>"])
    writer.add_token_types([normal] * 258 + [control] * 2)
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_add_bos_token(False)
    for tensor, value in gguf_tensors(case, model).items():
        writer.add_tensor(tensor, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def forward(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].numpy()


def hidden_states(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.model(torch.from_numpy(tokens)[None], use_cache=False).last_hidden_state[0].numpy()


@contextmanager
def f16_cache(model: torch.nn.Module) -> Iterator[None]:
    """Keys (after rotation) and values pass through float16."""
    eager = sys.modules[type(model).__module__].eager_attention_forward

    def rounded(module: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        return eager(module, q, k.half().float(), v.half().float(), *args, **kwargs)

    transformers.AttentionInterface.register("f16_cache", rounded)
    transformers.AttentionMaskInterface.register("f16_cache", transformers.masking_utils.eager_mask)
    model.config._attn_implementation = "f16_cache"
    yield
    model.config._attn_implementation = "eager"


@contextmanager
def f16_gelu(model: torch.nn.Module) -> Iterator[None]:
    """llama.cpp looks GELU up in a float16 table: it is compared with the same rounding in transformers."""
    hooks = []
    for layer in model.model.layers if model.config.model_type == "gemma3_text" else ():
        hooks += [
            layer.mlp.act_fn.register_forward_pre_hook(lambda _, args: (args[0].half().float(),)),
            layer.mlp.act_fn.register_forward_hook(lambda _, args, out: out.half().float()),
        ]
    yield
    for hook in hooks:
        hook.remove()


def random_model(case: Case, seed: int) -> torch.nn.Module:
    """The case's transformers model, with weights drawn from the seed."""
    config = case.build(
        vocab_size=VOCAB,
        max_position_embeddings=256,
        pad_token_id=None,
        attn_implementation="eager",
        **case.config,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomize(model, case.architecture == "gemma3", seed)
    return model


def make(name: str, case: Case) -> bool:
    """Writes one case; False when llama.cpp does not agree."""
    from engines import LlamaCpp

    seed = 1000 + list(CASES).index(name)
    model = random_model(case, seed)
    tokens = np.random.default_rng(seed).integers(0, VOCAB, case.tokens)
    logits = forward(model, tokens)
    with f16_cache(model):
        logits_f16_cache = forward(model, tokens)
    with f16_gelu(model):
        expected = forward(model, tokens)
    path = OUT / f"{name}.gguf"
    write(path, name, case, model)
    np.savez_compressed(
        path.with_suffix(".npz"),
        tokens=tokens.astype(np.int32),
        states=hidden_states(model, tokens),
        logits=logits,
        logits_f16_cache=logits_f16_cache,
    )
    betas = tuple(case.extra.get(f"rope.scaling.yarn_beta_{end}", 0.0) for end in ("fast", "slow"))
    engine = LlamaCpp(path, context=256, float_cache=True, yarn_betas=betas if all(betas) else None)
    largest = np.abs(logits).max()
    apart = np.abs(engine.logits(tokens.tolist()) - expected).max() / largest
    rounding = np.abs(logits_f16_cache - logits).max() / largest
    print(
        f"{name:20} {path.stat().st_size / 1024:4.0f} KiB  largest |logit| {largest:5.2f}; relative to it, "
        f"llama.cpp differs by {apart:.1e}, a float16 cache by {rounding:.1e}"
    )
    return bool(apart <= AGREEMENT)


def main() -> None:
    names = sys.argv[1:] or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        sys.exit(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    OUT.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    if disagreed := [name for name in names if not make(name, CASES[name])]:
        sys.exit(f"llama.cpp disagrees about {', '.join(disagreed)}")


if __name__ == "__main__":
    main()
