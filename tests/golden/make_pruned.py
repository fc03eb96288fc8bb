"""Writes the golden files of tests/test_prune.py: transformers' models with parts taken out, and their logits.

python tests/golden/make_pruned.py            # all, into tests/golden/pruned

The models are those of make_architectures.py (same seeds, so the same weights as in architectures/NAME.gguf).
Here layers, heads, channels and tokens are taken out of transformers' own weights, in its layout and by its
names. For each case NAME.npz: what is kept (`layers` [kept layer], `groups` [layer, kept KV head], `channels`
[layer, kept channel], `vocabulary` [kept token]), `tokens` int32 [token] in the new numbering, `logits` float32
[token, kept token]. Needs what make_architectures.py needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from make_architectures import CASES, VOCAB, forward, random_model

OUT = Path(__file__).resolve().parent / "pruned"
STAY = [ord("h"), ord("t"), 256, VOCAB - 2, VOCAB - 1]  # a merge and its parts; begin and end have roles
# Layers (of Gemma 3 such that the global ones stay evenly spaced); KV heads and channels of each layer.
GONE = {
    "llama": ([0], 1, 16),
    "llama-tied-bias": ([], 2, 40),
    "llama-llama3-rope": ([1], 0, 48),
    "qwen2": ([0], 0, 16),
    "qwen3": ([1], 1, 0),
    "gemma3-linear-rope": ([0], 1, 32),
    "gemma3-62-layers": ([0, 1, 2, 3, 4, 5], 0, 0),
}


def smaller(name: str, model: Any, kept: dict[str, np.ndarray]) -> Any:
    """A model of the kept parts' sizes with their weights."""
    case, config = CASES[name], model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    sizes = case.config | {
        "vocab_size": len(kept["vocabulary"]),
        "num_hidden_layers": len(kept["layers"]),
        "num_key_value_heads": kept["groups"].shape[1],
        "num_attention_heads": kept["groups"].shape[1] * group,
        "intermediate_size": kept["channels"].shape[1],
        "head_dim": head_dim,
    }
    sizes.pop("sliding_window_pattern", None)
    if case.architecture == "gemma3":
        sizes["layer_types"] = [config.layer_types[i] for i in kept["layers"]]
    options = {"max_position_embeddings": 256, "pad_token_id": None, "attn_implementation": "eager"}
    result = transformers.AutoModelForCausalLM.from_config(case.build(**options, **sizes)).float().eval()
    source = dict(model.named_parameters())
    for target_name, weight in result.named_parameters():
        if not target_name.startswith("model.layers."):
            value = source[target_name].detach().numpy()
            if "embed_tokens" in target_name or "lm_head" in target_name:
                value = value[kept["vocabulary"]]
        else:
            _, _, number, part = target_name.split(".", 3)
            layer = int(kept["layers"][int(number)])
            value = source[f"model.layers.{layer}.{part}"].detach().numpy()
            groups, channels = kept["groups"][layer], kept["channels"][layer]
            heads = [g * group + i for g in groups for i in range(group)]
            if "q_proj" in part:
                value = value[[h * head_dim + i for h in heads for i in range(head_dim)]]
            elif "k_proj" in part or "v_proj" in part:
                value = value[[g * head_dim + i for g in groups for i in range(head_dim)]]
            elif part == "self_attn.o_proj.weight":
                value = value[:, [h * head_dim + i for h in heads for i in range(head_dim)]]
            elif "gate_proj" in part or "up_proj" in part:
                value = value[channels]
            elif part == "mlp.down_proj.weight":
                value = value[:, channels]
        assert weight.shape == value.shape, target_name
        weight.data.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return result


def make(name: str) -> None:
    case, (gone, heads, channels) = CASES[name], GONE[name]
    seed = 1000 + list(CASES).index(name)
    model = random_model(case, seed)
    config = model.config
    rng = np.random.default_rng(seed)

    def some(of: int, count: int) -> np.ndarray:
        return np.sort(rng.permutation(of)[:count])

    every = range(config.num_hidden_layers)
    kept = {
        "layers": np.array([i for i in every if i not in gone]),
        "groups": np.array(
            [some(config.num_key_value_heads, config.num_key_value_heads - heads) for _ in every]
        ),
        "channels": np.array(
            [some(config.intermediate_size, config.intermediate_size - channels) for _ in every]
        ),
        "vocabulary": np.union1d(some(VOCAB, 220), STAY),
    }
    tokens = rng.integers(0, len(kept["vocabulary"]), case.tokens)
    logits = forward(smaller(name, model, kept), tokens)
    np.savez_compressed(OUT / f"{name}.npz", tokens=tokens.astype(np.int32), logits=logits, **kept)
    print(f"{name:20} largest |logit| {np.abs(logits).max():.2f}")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for case_name in GONE:
        make(case_name)
