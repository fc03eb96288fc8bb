"""pyllm prune: what is left computes what an independent implementation computes without the same parts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pyllm import LLM, _core
from pyllm.prune.prune import Amounts, prune

GOLDEN = Path(__file__).resolve().parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "pruned").glob("*.npz"))


@cache
def golden(case: str) -> dict[str, npt.NDArray[np.generic]]:
    return dict(np.load(GOLDEN / "pruned" / f"{case}.npz"))


def chosen(case: str) -> tuple[Amounts, dict[str, np.ndarray], list[float]]:
    """What makes prune choose the golden model's parts: nothing flows through the others."""
    kept, path = golden(case), GOLDEN / "architectures" / f"{case}.gguf"
    file = _core.GgufFile(path)
    shapes = {tensor.name: tuple(reversed(tensor.shape)) for tensor in file.tensors}
    layers, arch = file.get(f"{file.get('general.architecture')}.block_count"), file.get("general.architecture")
    kv_heads = file.get(f"{arch}.attention.head_count_kv")
    importance = {name: np.ones(shape[-1], np.float32) for name, shape in shapes.items() if len(shape) == 2}
    for layer in range(layers):
        channels = importance[f"blk.{layer}.ffn_down.weight"]
        channels[np.setdiff1d(np.arange(len(channels)), kept["channels"][layer])] = 0
        heads = importance[f"blk.{layer}.attn_output.weight"].reshape(kv_heads, -1)
        heads[np.setdiff1d(np.arange(kv_heads), kept["groups"][layer])] = 0
    influence = [float(layer in kept["layers"]) for layer in range(layers)]
    ffn = shapes["blk.0.ffn_down.weight"][1]
    amounts = Amounts(
        layers=layers - len(kept["layers"]),
        ffn=1 - kept["channels"].shape[1] / ffn,
        heads=kv_heads - kept["groups"].shape[1],
        tokens=kept["vocabulary"],
    )
    return amounts, importance, influence


def pruned(case: str, target: Path) -> Path:
    prune(GOLDEN / "architectures" / f"{case}.gguf", target, *chosen(case))
    return target


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers_without_the_same_parts(case: str, tmp_path: Path) -> None:
    path = pruned(case, tmp_path / "out.gguf")
    expected = golden(case)["logits"]
    with LLM(path, pack=False) as llm:
        found = llm.logits(golden(case)["tokens"].tolist())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
