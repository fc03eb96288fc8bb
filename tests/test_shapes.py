"""The writer of random models that other tests and benches rely on: names, shapes, types and statistics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.shapes import ARCHITECTURES, MIXES, PRESETS, Shape, write_model, write_shape
from pyllm.shapes.cached import parse_shape, shape_file
from pyllm.shapes.shape import tensor_shapes
from pyllm.shapes.types import file_bytes, tensor_type
from pyllm.shapes.weights import random_weights, tensor_data
from pyllm.tokenizer import Tokenizer

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
    with pytest.raises(PyllmError, match=r"token_embd.weight: 64 columns are not a multiple of Q4_K's 256"):
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
    types = {name: tensor_type("q4_k_m", name, dims, shape).name for name, dims in tensor_shapes(shape)}
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


def test_a_large_vocabulary_has_as_many_merges(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", vocab=3000)
    file = _core.GgufFile(path)
    tokens = file.get("tokenizer.ggml.tokens")
    merges = file.get("tokenizer.ggml.merges")
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    assert len(set(tokens)) == 3000
    assert len(merges) == 3000 - 259
    seen = set(tokens[:259])
    for merge, token in zip(merges, tokens[259:], strict=True):
        left, right = merge.split(" ")
        assert left in seen
        assert right in seen
        assert left + right == token
        seen.add(token)
    tokenizer = Tokenizer.from_gguf(path)
    text = "the rain in Spain, 1234 \N{SNOWMAN}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_weights_come_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyllm.shapes.weights.CHUNK", 1024)
    kind = gguf.GGMLQuantizationType.Q4_K
    pieces = list(tensor_data("blk.0.ffn_up.weight", (10, 256), kind, Shape(), 0, 0.03))
    assert [piece.nbytes for piece in pieces] == [4 * 144, 4 * 144, 2 * 144]
    rows = np.concatenate(pieces).reshape(10, 144)
    assert len(np.unique(rows, axis=0)) == 10


def test_a_tensor_depends_on_its_name_and_the_seed_alone() -> None:
    def data(name: str, seed: int) -> bytes:
        kind = gguf.GGMLQuantizationType.Q8_0
        return b"".join(piece.tobytes() for piece in tensor_data(name, (4, 64), kind, Shape(), seed, 0.03))

    assert data("blk.0.attn_k.weight", 1) == data("blk.0.attn_k.weight", 1)
    assert data("blk.0.attn_k.weight", 1) != data("blk.1.attn_k.weight", 1)
    assert data("blk.0.attn_k.weight", 1) != data("blk.0.attn_k.weight", 2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small shape by the name small, and an empty PYLLM_HOME."""
    monkeypatch.setitem(PRESETS, "small", Shape(dim=64, ffn=96))
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "shapes"


def test_a_shape_by_name_is_written_once_and_replaced_when_it_changes(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shape_file("small:q8_0")
    assert path.parent == small
    assert path.read_bytes() == write_shape(small / "again", PRESETS["small"], "q8_0").read_bytes()
    assert abs(path.stat().st_size - file_bytes(PRESETS["small"], "q8_0")) < 20_000
    before = path.stat().st_mtime_ns
    assert shape_file("SMALL:Q8_0") == path
    assert path.stat().st_mtime_ns == before
    other = shape_file("small:q4_0")
    monkeypatch.setitem(PRESETS, "small", Shape(dim=64, ffn=128))
    changed = shape_file("small:q8_0")
    assert changed != path
    assert sorted(small.glob("*.gguf")) == sorted([changed, other])


def test_a_shape_that_cannot_be_written_leaves_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    with pytest.raises(PyllmError, match=r"random weights of small:q8_0 need .* 10,000 are free"):
        shape_file("small:q8_0")
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "small", Shape(dim=64, ffn=96))
    monkeypatch.setenv("PYLLM_HOME", str(small.parent))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyllm.shapes.write.tensor_data", fail)
    with pytest.raises(PyllmError, match="no space left on the disk"):
        shape_file("small:q8_0")
    assert {path.suffix for path in small.iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "unknown shape ''"),
        ("llama-2b", "unknown shape 'llama-2b': expected NAME:TYPE with NAME one of smollm2-135m, llama-1b"),
        ("llama-1b:q4_k_x", "unknown type 'q4_k_x': expected a mix"),
        ("smollm2-135m:q4_k", "576 columns are not a multiple of Q4_K's 256"),
    ],
)
def test_shapes_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(PyllmError, match=said):
        parse_shape(name)


def test_the_type_of_a_shape_can_be_left_out() -> None:
    assert parse_shape("llama-1b") == ("llama-1b:q4_k_m", PRESETS["llama-1b"], "q4_k_m")


def test_the_program_says_what_is_wrong() -> None:
    command = [sys.executable, "-m", "pyllm.shapes"]
    done = subprocess.run([*command, "llama-1b:what", "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("pyllm: unknown type 'what'")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_llama_cpp_loads_them(arch: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = write_model(tmp_path / "m.gguf", arch, quant="q4_k_m")
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, verbose=False, logits_all=True)
    llm.eval(llm.tokenize(b"the other", add_bos=False))
    logits = np.array(llm.scores[: llm.n_tokens])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01
