"""Writes tests/golden/activations.npz: what transformers' hooks see in the models of make_architectures.py.

python tests/golden/make_activations.py

For each case: CASE/MATRIX, float64 [columns], the sum of its squared inputs over the case's tokens by its GGUF
name, and CASE/influence, float64 [layer], 1 - cosine of the hidden states before and after each layer, averaged
over tokens. The models are made again from their seeds; their logits must be those of the golden files. Needs
what make_architectures.py needs.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from make_architectures import CASES, HERE, OUT, TENSORS, TOP, forward, random_model

CHOSEN = ("llama", "llama-tied-bias", "qwen2", "qwen3", "gemma3")


def gguf_name(module: str) -> str:
    if module in TOP:
        return f"{TOP[module]}.weight"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{TENSORS[part]}.weight"


def observe(name: str) -> dict[str, np.ndarray]:
    """Runs one case with hooks on its matrices and layers."""
    case, seed = CASES[name], 1000 + list(CASES).index(name)
    model = random_model(case, seed)
    config = model.config
    golden = np.load(OUT / f"{name}.npz")
    seen: dict[str, np.ndarray] = {}
    influence: list[float] = []

    def matrix(target: str) -> Any:
        def hook(_: Any, inputs: Any) -> None:
            seen[f"{name}/{target}"] = inputs[0].double().square().sum(dim=(0, 1)).numpy()

        return hook

    def layer(_: Any, inputs: Any, output: Any) -> None:
        after = output[0] if isinstance(output, tuple) else output
        near = torch.nn.functional.cosine_similarity(inputs[0].double(), after.double(), dim=-1)
        influence.append(float(1 - near.mean()))

    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            tied = path == "lm_head" and config.tie_word_embeddings
            target = "token_embd.weight" if tied else gguf_name(path)
            module.register_forward_pre_hook(matrix(target))
    for module in model.model.layers:
        module.register_forward_hook(layer)
    if not np.allclose(forward(model, golden["tokens"].astype(np.int64)), golden["logits"], atol=1e-4):
        sys.exit(f"{name}: not the model of its golden file")
    return seen | {f"{name}/influence": np.array(influence)}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    for name in CHOSEN:
        found |= observe(name)
    np.savez_compressed(HERE / "activations.npz", **found)
    print(f"{len(found)} arrays of {', '.join(CHOSEN)}")


if __name__ == "__main__":
    main()
