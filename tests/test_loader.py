"""Models that cannot run are refused by name: what is missing or does not fit, expected and found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.shapes import write_model


def rewrite(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """A copy of a model: tensors renamed to None are left out, arrays take a tensor's place."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "general.architecture")):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        data = change.get(tensor.name, tensor.data)
        if data is None:
            continue
        raw = None if tensor.name in change else tensor.tensor_type
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def load(path: Path) -> _core.Model:
    return _core.Model(_core.GgufFile(path), threads=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blk.1.attn_k.weight": None}, r"blk\.1\.attn_k\.weight: not in .*model\.gguf"),
        ({"blk.0.ffn_norm.weight": None}, r"blk\.0\.ffn_norm\.weight: not in"),
        (
            {"blk.1.attn_q.weight": np.zeros((8, 256), np.float32)},
            r"blk\.1\.attn_q\.weight: expected shape \[256, 256\].*the file has \[256, 8\]",
        ),
        (
            {"output_norm.weight": np.zeros(7, np.float32)},
            r"output_norm\.weight: expected shape \[256\], the file has \[7\]",
        ),
        (
            {"blk.0.attn_q.weight": np.zeros((256, 256), np.int32)},
            r"blk\.0\.attn_q\.weight: expected a float or quantized type, the file has I32",
        ),
        ({"token_embd.weight": np.zeros(64, np.float32)}, r"token_embd\.weight: expected 2 dimensions"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    whole = write_model(tmp_path / "whole.gguf", quant="Q8_0")
    with pytest.raises(PyllmError, match=said):
        load(rewrite(whole, tmp_path / "model.gguf", change))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"embedding_length": None}, r"llama\.embedding_length"),
        ({"block_count": 0}, r"llama\.block_count: expected 1 to"),
        ({"block_count": 2**31}, r"llama\.block_count: expected 1 to"),
        ({"attention.head_count": 3}, r"llama\.attention\.head_count"),
        ({"attention.head_count_kv": 3}, r"head_count_kv: expected a divisor of 4 heads, the file has 3"),
        ({"expert_count": 8}, r"llama\.expert_count: 8 experts"),
        ({"rope.scaling.type": "longrope"}, r"rope\.scaling\.type: expected none, linear or yarn"),
        ({"general.architecture": "mamba"}, r"mamba is not supported; known: llama, qwen2, qwen3, gemma3"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, metadata: dict[str, Any], said: str) -> None:
    path = write_model(tmp_path / "model.gguf", quant="Q8_0", **metadata)
    with pytest.raises(PyllmError, match=said):
        load(path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.gguf", quant="Q8_0")
    names = [tensor.name for tensor in gguf.GGUFReader(whole).tensors]
    with pytest.raises(PyllmError, match="holds no tensors"):
        load(rewrite(whole, tmp_path / "model.gguf", dict.fromkeys(names)))


def test_a_factor_without_a_type_scales_linearly(tmp_path: Path) -> None:
    def logits(**metadata: Any) -> np.ndarray:
        model = load(write_model(tmp_path / "m.gguf", quant="F16", **metadata))
        engine = _core.Engine(model, kv_bytes=40 * model.kv_block_bytes)
        engine.submit(1, [5, 6, 7, 8], _core.SamplingParams(), want_logits=True)
        return np.concatenate([event.logits for event in engine.step() if event.logits is not None])

    plain = logits()
    scaled = logits(**{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    assert not np.array_equal(plain, scaled)
    np.testing.assert_array_equal(logits(**{"rope.scaling.factor": 4.0}), scaled)
    np.testing.assert_array_equal(logits(**{"rope.scaling.type": "none", "rope.scaling.factor": 4.0}), plain)
