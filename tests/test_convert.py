"""Hugging Face folders to GGUF: logits and tokens of the result, and folders that mean harm.

The folders and what they hold: tests/golden/make_folders.py.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from click.testing import CliRunner, Result
from engine_driver import logits_of

from pyllm import _core
from pyllm.cli.app import app
from pyllm.convert.safetensors import read_folder
from pyllm.errors import PyllmError
from pyllm.template import ChatTemplate
from pyllm.tokenizer import Tokenizer

FOLDERS = Path(__file__).resolve().parent / "golden" / "folders"
CASES = sorted(path.name for path in FOLDERS.iterdir())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    model = _core.Model(_core.GgufFile(path), threads=1)
    return logits_of(_core.Engine(model, kv_bytes=2**22), tokens)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = run("convert", FOLDERS / case, out, "--type", "f32")  # bfloat16 activations would round more
    assert done.exit_code == 0, done.output
    expected = np.load(FOLDERS / case / "expected.npz")
    found = logits(out, expected["tokens"])
    assert np.abs(found - expected["logits"]).max() <= 1e-3 * np.abs(expected["logits"]).max()


@pytest.mark.parametrize("case", CASES)
def test_weights_stay_as_they_are_stored(case: str, tmp_path: Path) -> None:
    wide, out = tmp_path / "f32.gguf", tmp_path / "out.gguf"
    assert run("convert", FOLDERS / case, wide, "--type", "f32").exit_code == 0
    assert run("convert", FOLDERS / case, out).exit_code == 0
    tensors = json.loads(run("inspect", wide, out, "--json").stdout)["tensors"]
    assert {t["other"]["type"] for t in tensors if len(t["shape"]) > 1} == {"BF16"}
    assert {t["other"]["largest_error"] for t in tensors} == {0}


@pytest.mark.parametrize("case", CASES)
def test_tokens_equal_those_of_the_folder(case: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert run("convert", FOLDERS / case, out, "--type", "q8_0").exit_code == 0
    ours, original = (
        Tokenizer.from_gguf(out),
        tokenizers.Tokenizer.from_file(str(FOLDERS / case / "tokenizer.json")),
    )
    text = (Path(__file__).parent / "oracle" / "text.txt").read_text(encoding="utf-8")[:20_000]
    for part in (text, "12 3456 don't I'LL\n\n  x", "\N{SNOWMAN} Größe 你好", *text.split("\n")[:200]):
        assert ours.encode(part) == original.encode(part).ids
    vocabulary = ours.vocabulary
    assert ours.decode(original.encode(text, add_special_tokens=False).ids) == text
    assert ours.add_bos == (not case.startswith("qwen"))
    assert vocabulary.tokens[vocabulary.eos] in (b"<eos>", b"<|end|>")
    template = ChatTemplate.from_gguf(_core.GgufFile(out), ours)
    assert template.render([{"role": "user", "content": "as it is"}]) == "as it is"


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    folder, out = Path(shutil.copytree(FOLDERS / "qwen2", tmp_path / "bad")), tmp_path / "out.gguf"
    place = read_folder(folder)["model.norm.weight"]
    with open(place.path, "r+b") as file:
        file.seek(place.start + 2 * 3)
        file.write(b"\xc0\x7f")  # NaN in bfloat16
    done = run("convert", folder, out)
    assert done.exit_code == 1
    assert "output_norm.weight: the weight in row 0, column 3 is nan" in done.stderr
    assert not out.exists()
    assert run("convert", folder, out, "--allow").exit_code == 0
    assert {t["bad"] for t in json.loads(run("inspect", out, "--json").stdout)["tensors"]} == {0}


def test_quantize_takes_a_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    assert run("convert", FOLDERS / "qwen2", one, "--type", "q8_0").exit_code == 0
    done = run("quantize", FOLDERS / "qwen2", two, "--type", "q8_0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes_after"] == two.stat().st_size
    assert one.read_bytes() == two.read_bytes()


# Not qwen3: llama.cpp does not read where a file's yarn ramp ends.
@pytest.mark.parametrize("case", [case for case in CASES if case != "qwen3"])
def test_llama_cpp_agrees(case: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    out = tmp_path / "out.gguf"
    run("convert", FOLDERS / case, out, "--type", "f32")
    expected = np.load(FOLDERS / case / "expected.npz")
    llm = llama_cpp.Llama(str(out), n_ctx=256, n_threads=1, verbose=False, logits_all=True)
    llm.eval(expected["tokens"].tolist())
    found = np.array(llm.scores[: llm.n_tokens])
    assert np.abs(found - expected["logits"]).max() <= 1e-2 * np.abs(expected["logits"]).max()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / "llama", tmp_path / "llama"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads(path.read_text(encoding="utf-8"))
    change(about)
    path.write_text(json.dumps(about), encoding="utf-8")


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GPT2LMHeadModel"]}, "architectures: 'GPT2LMHeadModel' is not supported"),
    ({"architectures": None}, "architectures: None is not supported"),
    ({"num_hidden_layers": 3}, r"tensors are missing, blk\.2"),
    ({"num_hidden_layers": 1}, "has no place in a llama model of 1 layers"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers: expected a number from 1"),
    ({"num_attention_heads": 4}, "expected 4 heads of 16 rows, found 32"),
    ({"hidden_act": "gelu"}, "hidden_act: expected silu"),
    ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type 'longrope'"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "factor: expected a positive number"),
    ({"quantization_config": {"bits": 4}}, "quantization_config: expected None"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS)
def test_configurations_that_cannot_be_converted(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    edit(folder / "config.json", lambda config: config.update(change))
    done = run("convert", folder, tmp_path / "out.gguf")
    assert done.exit_code == 1
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_older_configurations_mean_the_same(folder: Path, tmp_path: Path) -> None:
    def older(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope

    assert run("convert", folder, tmp_path / "new.gguf").exit_code == 0
    edit(folder / "config.json", older)
    assert run("convert", folder, tmp_path / "old.gguf").exit_code == 0
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "old.gguf").read_bytes()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", "a\\b", "C:x", ""])
def test_shards_lie_in_the_folder(folder: Path, name: str) -> None:
    edit(
        folder / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({"lm_head.weight": name}),
    )
    with pytest.raises(PyllmError, match="is no plain file name"):
        read_folder(folder)


def test_shards_that_are_missing_or_say_something_else(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    edit(index, lambda about: about["weight_map"].update(ghost="model-00001-of-00003.safetensors"))
    with pytest.raises(PyllmError, match="ghost is not in model-00001"):
        read_folder(folder)
    edit(index, lambda about: about["weight_map"].pop("ghost"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(PyllmError, match=r"model-00002-of-00003\.safetensors: No such file"):
        read_folder(folder)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(PyllmError, match=r"pickled \.bin files, are not read"):
        read_folder(tmp_path)


def entry(**change: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | change}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (entry(data_offsets=[0, 17]), "bytes 0 to 17 for shape"),
        (entry(data_offsets=[16, 0]), "bytes 16 to 0"),
        (entry(data_offsets=[8, 24]), "the file has 16"),
        (entry(data_offsets=[-16, 0]), "data_offsets"),
        (entry(data_offsets=[0]), "data_offsets"),
        (entry(data_offsets=[0, True]), "data_offsets"),
        (entry(shape=[1 << 40, 1 << 40]), "for shape"),
        (entry(shape=[]), "1 to 4 sizes"),
        (entry(shape=[0, 4]), "1 to 4 sizes"),
        (entry(shape=[2.0, 2]), "1 to 4 sizes"),
        (entry(dtype="F8_E4M3"), "type 'F8_E4M3'"),
        (entry(dtype=["F32"]), r"type \['F32'\]"),
        ({"x": None}, "expected dtype"),
        (entry() | {"y": entry()["x"]}, "overlaps another tensor"),
        ([], "expected a JSON object"),
    ],
)
def test_headers_are_checked(tmp_path: Path, header: object, said: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(PyllmError, match=said):
        read_folder(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 1 << 62), struct.pack("<Q", 9) + b"[" * 9])
def test_torn_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(PyllmError, match=r"model\.safetensors"):
        read_folder(tmp_path)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    text = b"[" * 100_000
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(PyllmError, match="not JSON"):
        read_folder(tmp_path)


def test_a_tokenizer_that_gguf_cannot_name_is_refused(folder: Path, tmp_path: Path) -> None:
    def other(about: dict[str, Any]) -> None:
        about["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "[aeiou]"}

    edit(folder / "tokenizer.json", other)
    done = run("convert", folder, tmp_path / "out.gguf")
    assert done.exit_code == 1
    assert "no tokenizer that GGUF files can name cuts text as this one does" in done.stderr
    (folder / "tokenizer.json").unlink()
    assert "expected tokenizer.json" in run("convert", folder, tmp_path / "out.gguf").stderr
