"""Keys and values in a file: the same bits as of a prompt that was read, for every type and device; and files
that are damaged, forged or somebody else's, which never reach the engine."""

from __future__ import annotations

import errno
import os
import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyllm import _core, kv_file, pack_file
from pyllm.errors import PyllmError
from pyllm.llm import LLM, SamplingParams
from pyllm.shapes import write_model

VOCAB = 320
MODELS = {"llama": "f16", "qwen2": "q8_0", "qwen3": "q4_0", "gemma3": "q8_q4"}
TEXT = np.random.default_rng(5).integers(3, 259, 203).tolist()  # 12 whole blocks and 11 tokens


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / f"{name}.gguf", name, quant="Q8_0", std=0.08, seed=3) for name in MODELS}


@pytest.fixture
def llama(models: dict[str, Path]) -> Path:
    return models["llama"]


def opened(path: Path, **options: Any) -> LLM:
    return LLM(path, **{"threads": 2, "context": 512, "device": "cpu"} | options)


def read(llm: LLM, tokens: list[int]) -> tuple[list[Any], int]:
    """What the model makes of a text, every probability of every step, and how much of it was cached."""
    params = SamplingParams(max_tokens=12, temperature=0.0, logprobs=True, top_logprobs=VOCAB)
    (done,) = llm.generate(tokens, params)
    return [(one.token_id, one.logprob, one.top) for one in done.logprobs or ()], done.usage.cached_tokens


def keep(path: Path, file: Path, **options: Any) -> None:
    with opened(path, **options) as llm:
        read(llm, TEXT)
        assert llm.save_kv(TEXT, file) == 192
    assert file.stat().st_mode & 0o77 == 0


def check_same_bits(path: Path, file: Path, **options: Any) -> None:
    """A text that goes on from the one that was kept is read with the same bits in another process's engine."""
    keep(path, file, **options)
    longer = [*TEXT, 7, 8, 9]
    with opened(path, **options) as llm:
        expected = read(llm, longer)
    with opened(path, **options) as llm:
        assert llm.load_kv(file) == TEXT[:192]
        assert llm.stats()["blocks_cached"] == 12
        found = read(llm, longer)
    assert expected[1] == 0
    assert found == (expected[0], 192)


@pytest.mark.parametrize(("name", "kv_type"), [*MODELS.items(), ("gemma3", "q6_q4")])
def test_the_same_bits_as_of_reading(models: dict[str, Path], tmp_path: Path, name: str, kv_type: str) -> None:
    check_same_bits(models[name], tmp_path / "a.kv", kv_type=kv_type)


@pytest.fixture
def gpu() -> Iterator[None]:
    _core.testing.fake_devices([{"name": "Fake GPU", "total_bytes": 64 << 20}])
    yield
    _core.testing.fake_devices(None)


@pytest.mark.parametrize("layers", [1, None])
def test_layers_on_two_devices(llama: Path, tmp_path: Path, gpu: None, layers: int | None) -> None:
    check_same_bits(llama, tmp_path / "a.kv", device="cuda", gpu_layers=layers, kv_type="q8_0")
    with (
        opened(llama, kv_type="q8_0") as llm,
        pytest.raises(PyllmError, match="with other options, computed it"),
    ):
        llm.load_kv(tmp_path / "a.kv")


def test_parts_smaller_than_the_text(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_file, "_PART", 1)
    check_same_bits(llama, tmp_path / "a.kv")


def test_what_is_not_cached_is_not_kept(llama: Path, tmp_path: Path) -> None:
    with opened(llama) as llm:
        assert llm.save_kv(TEXT, tmp_path / "a.kv") == 0
        assert not (tmp_path / "a.kv").exists()
        read(llm, TEXT)
        assert llm.save_kv([*TEXT[:100], *TEXT[:92]], tmp_path / "a.kv") == 96
        assert llm.save_kv(TEXT[:15], tmp_path / "b.kv") == 0
    with opened(llama) as llm:
        assert llm.load_kv(tmp_path / "a.kv") == TEXT[:96]
        assert read(llm, TEXT)[1] == 96
    with opened(llama, prefix_cache=False) as llm:
        assert llm.load_kv(tmp_path / "a.kv") == []


def test_a_pool_that_is_too_small_takes_what_fits(llama: Path, tmp_path: Path) -> None:
    keep(llama, tmp_path / "a.kv")
    with opened(llama) as llm:
        block = llm.config.kv_bytes_per_token * 16
    with opened(llama, kv_bytes=5 * block) as llm:
        assert llm.load_kv(tmp_path / "a.kv") == TEXT[:80]
        assert read(llm, TEXT[:60])[1] == 48
        assert llm.stats()["blocks_free"] + llm.stats()["blocks_cached"] == 5


def test_while_others_run(llama: Path, tmp_path: Path) -> None:
    keep(llama, tmp_path / "a.kv")
    with opened(llama) as llm:
        alone = read(llm, [4, 5, 6])
    with opened(llama) as llm:
        stream = llm.stream([9] * 40, SamplingParams(max_tokens=100, temperature=0.0))
        next(stream)
        assert llm.load_kv(tmp_path / "a.kv") == TEXT[:192]
        assert llm.save_kv(TEXT, tmp_path / "b.kv") == 192
        assert read(llm, [4, 5, 6]) == alone
        assert [piece.completion for piece in stream][-1] is not None
    assert (tmp_path / "a.kv").stat().st_size == (tmp_path / "b.kv").stat().st_size


# -- files that are not used -----------------------------------------------------------------------------------


def test_another_model_or_engine(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(llama, tmp_path / "a.kv")

    def refused(path: Path, why: str, **options: Any) -> None:
        with opened(path, **options) as llm:
            with pytest.raises(PyllmError, match=why):
                llm.load_kv(tmp_path / "a.kv")
            assert read(llm, TEXT)[1] == 0

    refused(write_model(tmp_path / "other.gguf", quant="Q8_0", std=0.08, seed=4), "another model's")
    refused(llama, "with other options, computed it", kv_type="q8_0")
    refused(llama, "with other options, computed it", precise=True)
    refused(llama, "with other options, computed it", isa="scalar")
    monkeypatch.setattr(kv_file, "__version__", "0.0.1")
    refused(llama, "another version of pyllm")


def test_any_flipped_bit_and_any_cut_is_found(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.kv"
    keep(llama, file)
    whole = file.read_bytes()
    end = len(whole) - 56 - int.from_bytes(whole[-24:-16], "little")  # of the bytes that the document describes
    draw = random.Random(1)
    flips = [*range(len(whole) - 56, len(whole)), *(draw.randrange(len(whole)) for _ in range(40))]
    flips += [draw.randrange(end, len(whole)) for _ in range(40)]
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :] for at in flips]
    damaged += [whole[:at] for at in (0, 1, 55, 56, 4096, end, len(whole) - 1)]
    damaged += [whole[draw.randrange(len(whole)) :], whole + b"\0", whole + whole, b"\0" * len(whole)]
    with opened(llama) as llm:
        for data in damaged:
            file.write_bytes(data)
            with pytest.raises(PyllmError, match=r"a\.kv: "):
                llm.load_kv(file)
        assert llm.stats()["blocks_cached"] == 0
        file.write_bytes(whole)
        assert llm.load_kv(file) == TEXT[:192]


def test_forged_files_with_right_checksums(llama: Path, tmp_path: Path) -> None:
    with opened(llama) as llm:
        content, key, name = llm._kv_identity()
        block = llm._thread.engine.kv_block_bytes

        def refused(why: str, *pieces: tuple[str, bytes]) -> None:
            with open(tmp_path / "a.kv", "wb") as file:
                views = [(name, memoryview(data)) for name, data in pieces]
                pack_file.write(file.fileno(), views, content, key, name, lambda: None)
            with pytest.raises(PyllmError, match=why):
                llm.load_kv(tmp_path / "a.kv")

        def tokens(*ids: int) -> tuple[str, bytes]:
            return "tokens", array("i", ids).tobytes()

        refused("does not tell its tokens")
        refused("does not tell its tokens", ("kv", bytes(block)))
        refused("does not tell its tokens", tokens(*[5] * 16), ("kv", bytes(block)))
        refused("does not tell its tokens", ("kv", bytes(block)), tokens(*[5] * 15))
        refused("expected blocks of", ("kv", bytes(block - 1)), tokens(*[5] * 16))
        refused("expected blocks of", ("weights", bytes(block)), tokens(*[5] * 16))
        refused("more blocks than tokens", ("kv", bytes(block)), tokens(*[5] * 32))
        refused("more blocks than tokens", ("kv", bytes(3 * block)), tokens(*[5] * 32))
        refused("expected tokens from 0 to 319", ("kv", bytes(block)), tokens(*[5] * 15, VOCAB))
        refused("expected tokens from 0 to 319", ("kv", bytes(block)), tokens(*[5] * 15, -1))
        assert llm.stats()["blocks_cached"] == 0


def test_what_the_engine_itself_refuses(llama: Path) -> None:
    with opened(llama) as llm:
        engine = llm._thread.engine
        block = engine.kv_block_bytes
        for first, data, why in [
            (0, bytes(block + 1), "expected whole blocks"),
            (0, bytes(2 * block), "31 tokens have 1 whole blocks, got 2 from 0"),
            (1, bytes(block), "got 1 from 1"),
            (-1, bytes(block), "got 1 from -1"),
            (2**62, b"", "got 0 from"),
        ]:
            with pytest.raises(PyllmError, match=why):
                engine.write_kv([5] * 31, first, data)
        assert engine.write_kv([5] * 64, 2, bytes(block)) == 0  # what comes before is not there
        for first, count in [(-1, 1), (0, -1)]:
            with pytest.raises(PyllmError, match="expected blocks from 0 up"):
                engine.read_kv([5] * 31, first, count)
        assert engine.read_kv([5] * 31, 2**62, 2**62) == b""


def test_files_of_others_are_not_trusted(llama: Path, tmp_path: Path) -> None:
    keep(llama, tmp_path / "a.kv")
    (tmp_path / "link.kv").symlink_to(tmp_path / "a.kv")
    os.mkfifo(tmp_path / "pipe.kv", 0o600)
    with opened(llama) as llm:
        for name, why in [
            ("link.kv", "symbolic"),
            ("pipe.kv", "not what is expected"),
            ("none.kv", "No such file"),
        ]:
            with pytest.raises(PyllmError, match=why):
                llm.load_kv(tmp_path / name)
        (tmp_path / "a.kv").chmod(0o620)
        with pytest.raises(PyllmError, match="other users may write to it"):
            llm.load_kv(tmp_path / "a.kv")


# -- writing that fails ----------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_there(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.kv"
    keep(llama, file)
    before = file.read_bytes()

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with opened(llama) as llm:
        read(llm, TEXT[:50])
        with pytest.raises(StopError):
            llm.save_kv(TEXT, file, stop)
        monkeypatch.setattr(os, "writev", full)
        with pytest.raises(OSError, match="No space left"):
            llm.save_kv(TEXT, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.glob("a.kv*")] == ["a.kv"]
