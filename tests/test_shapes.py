"""The writer of random models that other tests and benches rely on: names, shapes, types and statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from shapes import (
    ARCHITECTURES,
    MIXES,
    PRESETS,
    mixed_type,
    random_weights,
    tensor_shapes,
    tensor_type,
    write_model,
)

from pyllm import _core

TYPES = _core.quant_types()


@pytest.mark.parametrize("kind", TYPES)
def test_weights_have_the_deviation_asked_for(kind: str) -> None:
    count = 1 << 18
    data = random_weights(kind, count, np.random.default_rng(3), 0.03)
    weights = _core.dequantize(kind, data, count)
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(0.03, rel=0.35 if kind == "MXFP4" else 0.15)
    assert abs(weights.mean()) < 0.002
    # No two runs of weights alike: an engine that mixes up rows or blocks must not go unnoticed.
    assert len(np.unique(weights.reshape(-1, 256), axis=0)) == count // 256


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_models_have_the_standard_tensors_and_keys(arch: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", arch, dim=256, layers=3, ffn=512, quant="Q4_K")
    reader = gguf.GGUFReader(path)
    names = {tensor.name.removesuffix(".weight").removesuffix(".bias") for tensor in reader.tensors}
    listed = gguf.constants.MODEL_TENSORS[getattr(gguf.MODEL_ARCH, arch.upper())]
    known = {gguf.constants.TENSOR_NAMES[tensor].format(bid=layer) for tensor in listed for layer in range(3)}
    assert names <= known
    assert {name for name in known if "norm" in name} <= names
    assert ("output" in names) == (arch != "gemma3")
    assert reader.fields["general.architecture"].contents() == arch
    assert reader.fields[f"{arch}.embedding_length"].contents() == 256
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 320
    for tensor in reader.tensors:
        assert tensor.tensor_type.name == ("Q4_K" if len(tensor.shape) == 2 else "F32")


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    first, again, other = (
        write_model(tmp_path / f"{i}.gguf", quant="IQ2_XS", seed=seed).read_bytes()
        for i, seed in enumerate([5, 5, 6])
    )
    assert first == again
    assert first != other


def test_metadata_can_be_overridden_added_and_left_out(tmp_path: Path) -> None:
    extra: dict[str, Any] = {"rope.scaling.type": "yarn", "context_length": 99, "rope.freq_base": None}
    reader = gguf.GGUFReader(write_model(tmp_path / "m.gguf", **extra, **{"general.architecture": "other"}))
    assert reader.fields["llama.rope.scaling.type"].contents() == "yarn"
    assert reader.fields["llama.context_length"].contents() == 99
    assert "llama.rope.freq_base" not in reader.fields
    assert reader.fields["general.architecture"].contents() == "other"


def test_a_type_that_does_not_fit_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"token_embd.weight: 64 columns are not a multiple of Q4_K's 256"):
        write_model(tmp_path / "m.gguf", dim=64, quant="Q4_K")


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("preset", PRESETS)
def test_mixes_fit_every_preset(preset: str, mix: str) -> None:
    shape = PRESETS[preset]
    for name, dims in tensor_shapes(shape):
        block = GGML_QUANT_SIZES[tensor_type(mix, name, dims, shape)][0]
        assert dims[-1] % block == 0


def test_q4_k_m_of_a_1b_model_is_the_known_mix() -> None:
    shape = PRESETS["llama-1b"]
    types = {name: mixed_type("q4_k_m", name, shape) for name, dims in tensor_shapes(shape) if len(dims) == 2}
    assert types["token_embd.weight"] == "Q6_K"
    assert [i for i in range(16) if types[f"blk.{i}.ffn_down.weight"] == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert {types[f"blk.{i}.attn_q.weight"] for i in range(16)} == {"Q4_K"}


def test_a_copied_vocabulary_is_padded(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source.gguf", vocab=400)
    copy = gguf.GGUFReader(write_model(tmp_path / "copy.gguf", "qwen3", tokenizer=source, vocab=500))
    original = gguf.GGUFReader(source)
    tokens = copy.fields["tokenizer.ggml.tokens"].contents()
    assert tokens[:400] == original.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == 500
    assert copy.fields["tokenizer.ggml.token_type"].contents()[399:] == [1] + [5] * 100
    for key in ("model", "pre", "merges", "eos_token_id", "add_bos_token"):
        name = f"tokenizer.ggml.{key}"
        assert copy.fields[name].contents() == original.fields[name].contents()
        assert copy.fields[name].types == original.fields[name].types


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_llama_cpp_loads_them(arch: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = write_model(tmp_path / "m.gguf", arch, quant="q4_k_m")
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, verbose=False, logits_all=True)
    llm.eval(llm.tokenize(b"the other", add_bos=False))
    logits = np.array(llm.scores[: llm.n_tokens])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01
