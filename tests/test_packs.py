"""Packed weights kept in files: the same answers, and no damaged, old or foreign file is ever believed."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyllm
from pyllm import LLM, PyllmError, _core, pack_file, packing, packs
from pyllm.models import remove
from pyllm.shapes import write_model

ROOT = Path(pyllm.__file__).parents[1]
TOKENS = [5, 6, 7, 8, 9, 10, 11]
# In another process: loads argv[1] as often as argv[2] says, however small it is, and prints the logits' hash.
DRIVER = """
import hashlib, sys
from pyllm import LLM, packs
packs.SMALLEST = 0
for _ in range(int(sys.argv[2])):
    with LLM(sys.argv[1], threads=1) as llm:
        print(hashlib.sha256(llm.logits([5, 6, 7, 8, 9, 10, 11]).tobytes()).hexdigest(), flush=True)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that differ in their weights alone, and one of another shape."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        name: write_model(folder / f"{name}.gguf", quant="q4_k_m", seed=seed, tied=True, std=0.2)
        for name, seed in (("one", 1), ("two", 2))
    }
    made["wide"] = write_model(folder / "wide.gguf", dim=512, quant="Q6_K", std=0.2)
    time.sleep(0.01)
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYLLM_PACK_LIMIT", raising=False)
    monkeypatch.setattr(packs, "SMALLEST", 0)
    monkeypatch.setattr(packs, "_RACY_NS", 0)
    return tmp_path / "home" / "packed"


class Start:
    """One start of a model: its logits, and how many bytes of its weights came from a file."""

    def __init__(self, path: Path, **options: Any) -> None:
        with LLM(path, threads=2, **options) as llm:
            self.logits = llm.logits(TOKENS)
            made = llm._packing
        if made:
            made.finish()
        self.mapped = made.mapped_bytes if made else 0
        self.packed = made.packed_bytes if made else 0


def kept(home: Path) -> list[str]:
    """What is in the folder, notes left out."""
    return sorted(p.name for p in home.iterdir() if p.suffix != ".content") if home.exists() else []


def only(home: Path) -> Path:
    (name,) = kept(home)
    assert name.endswith(".pack")
    return home / name


def start_twice(path: Path) -> np.ndarray:
    """The logits of a start that packs, after checking that the next one finds all of it."""
    first, second = Start(path), Start(path)
    assert first.mapped == 0 < first.packed
    assert second.packed == 0 < second.mapped
    np.testing.assert_array_equal(first.logits, second.logits)
    return first.logits


# -- the same answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["q4_k_m", "Q8_0", "Q5_1", "MXFP4", "F16", "BF16", "F32"])
def test_packed_kept_and_not_packed_give_the_same_bits(tmp_path: Path, home: Path, quant: str) -> None:
    path = write_model(tmp_path / "m.gguf", quant=quant, vocab=301, std=0.2)  # rows that fill no panel
    logits = start_twice(path)
    for options in ({"pack": False}, {"pack": False, "precise": True}):
        loose = Start(path, **options)
        assert (loose.mapped, loose.packed) == (0, 0)
        if "precise" not in options:
            np.testing.assert_array_equal(loose.logits, logits)
    np.testing.assert_array_equal(loose.logits, Start(path, precise=True).logits)


def test_weights_that_are_never_packed_are_not_kept(tmp_path: Path, home: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quant="IQ2_S", std=0.2)
    start = Start(path)
    assert (start.mapped, start.packed, kept(home)) == (0, 0, [])
    np.testing.assert_array_equal(start.logits, Start(path, pack=False).logits)


def test_copies_share_a_file_and_another_model_has_its_own(home: Path, models: Any, tmp_path: Path) -> None:
    one = start_twice(models["one"])
    copy = shutil.copy(models["one"], tmp_path / "copy.gguf")
    assert Start(copy).mapped > 0
    os.utime(models["one"])
    assert Start(models["one"]).mapped > 0
    assert len(kept(home)) == 1
    two = start_twice(models["two"])
    assert len(kept(home)) == 2
    assert not np.array_equal(one, two)


def test_a_small_model_is_not_kept(home: Path, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SMALLEST", 1 << 30)
    assert Start(models["one"]).packed > 0
    assert not home.exists()


def test_all_parts_of_the_size_count(models: Any) -> None:
    file = _core.GgufFile(models["one"])
    status = models["one"].stat()
    assert file.identities == [
        (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    ]


# -- models that change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["written over", "replaced"])
def test_a_changed_model_of_the_same_size_and_time(home: Path, models: Any, tmp_path: Path, how: str) -> None:
    path = Path(shutil.copy2(models["one"], tmp_path / "m.gguf"))
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    start_twice(path)
    if how == "written over":
        with open(path, "r+b") as file:
            file.write(models["two"].read_bytes())
    else:
        shutil.copy2(models["two"], tmp_path / "other.gguf")
        os.replace(tmp_path / "other.gguf", path)
    os.utime(path, ns=times)
    assert path.stat().st_mtime_ns == times[1]
    np.testing.assert_array_equal(Start(path).logits, Start(models["two"], pack=False).logits)


def test_one_changed_byte_of_a_model_counts(home: Path, models: Any, tmp_path: Path) -> None:
    path = Path(shutil.copy(models["one"], tmp_path / "m.gguf"))
    before = start_twice(path)
    tensor = next(t for t in _core.GgufFile(path).tensors if t.name == "blk.1.ffn_up.weight")
    with open(path, "r+b") as file:
        file.seek(tensor.offset + tensor.n_bytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x55]))
    after = Start(path)
    assert after.mapped == 0
    assert not np.array_equal(after.logits, before)
    assert len(kept(home)) == 2


def test_another_version_packs_again(home: Path, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start_twice(models["one"])
    monkeypatch.setattr(packs, "packing", lambda: "0123456789abcdef")
    assert Start(models["one"]).mapped == 0
    assert len(kept(home)) == 2
    problems = [pack.problem for pack in packs.packs()]
    assert sorted(problems) == ["", "packed by another version"]


# -- files that are damaged ------------------------------------------------------------------------------------


def rewrite(path: Path, change: Any) -> None:
    """A file of the same form whose description was changed, checksum and all."""
    with open(path, "r+b") as file:
        about = pack_file.read(file.fileno())
        described = change(json.loads(json.dumps(about.__dict__)))
        file.truncate(about.bytes)
        file.seek(about.bytes)
        document = json.dumps(described).encode()
        file.write(document)
        file.write(pack_file._END.pack(hashlib.sha256(document).digest(), len(document), pack_file.MAGIC))
        file.flush()
        modified = about.modified * 10**9
        os.utime(file.fileno(), ns=(modified, modified))


def places(wrong: tuple[str, int, int]) -> Any:
    return lambda about: {**about, "weights": [wrong, *about["weights"][1:]]}


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


DAMAGE = {
    "empty": lambda p: os.truncate(p, 0),
    "short": lambda p: os.truncate(p, 20),
    "half": lambda p: os.truncate(p, p.stat().st_size // 2),
    "end gone": lambda p: os.truncate(p, p.stat().st_size - 1),
    "longer": lambda p: os.truncate(p, p.stat().st_size + 4096),
    "a weight": lambda p: flip(p, 12345),
    "the description": lambda p: flip(p, p.stat().st_size - 100),
    "the length": lambda p: flip(p, p.stat().st_size - 18),
    "the magic": lambda p: flip(p, p.stat().st_size - 1),
    "something else": lambda p: p.write_bytes(b"hello" * 100_000),
    "other content": lambda p: rewrite(p, lambda about: {**about, "content": "0" * 64}),
    "outside": lambda p: rewrite(p, places(("output.weight", 1 << 40, 64))),
    "too long": lambda p: rewrite(p, places(("output.weight", 64, (1 << 62) - 64))),
    "before it": lambda p: rewrite(p, places(("output.weight", -64, 64))),
    "odd place": lambda p: rewrite(p, places(("output.weight", 1, 64))),
    "huge number": lambda p: rewrite(p, places(("output.weight", 1 << 70, 64))),
    "no number": lambda p: rewrite(p, places(("output.weight", "0", 64))),
    "two of one name": lambda p: rewrite(p, lambda about: {**about, "weights": about["weights"][:1] * 2}),
    "a list": lambda p: rewrite(p, lambda about: [1, 2]),
    "deep": lambda p: rewrite(p, lambda about: {**about, "weights": json.loads("[" * 900 + "]" * 900)}),
    "no blocks": lambda p: rewrite(p, lambda about: {**about, "blocks": []}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew(home: Path, models: Any, damage: str, capfd: Any) -> None:
    before = start_twice(models["one"])
    path = only(home)
    DAMAGE[damage](path)
    after = Start(models["one"])
    assert after.mapped == 0
    np.testing.assert_array_equal(after.logits, before)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"pyllm: {path}: ")
    assert "packing again" in said
    assert Start(models["one"]).mapped > 0
    assert only(home) == path


def test_weights_of_another_size_are_not_taken(home: Path, models: Any) -> None:
    before = start_twice(models["one"])

    def shrink(about: dict[str, Any]) -> dict[str, Any]:
        name, offset, count = about["weights"][3]
        about["weights"][3] = (name, offset, count - 64)
        return about

    rewrite(only(home), shrink)
    after = Start(models["one"])
    assert 0 < after.packed < after.mapped
    np.testing.assert_array_equal(after.logits, before)
    assert Start(models["one"]).packed == 0  # written anew, whole


def test_another_models_file_under_this_name(home: Path, models: Any) -> None:
    before = start_twice(models["one"])
    path = only(home)
    Start(models["two"])
    (other,) = set(home.glob("*.pack")) - {path}
    shutil.copy2(other, path)
    after = Start(models["one"])
    assert after.mapped == 0
    np.testing.assert_array_equal(after.logits, before)


def test_an_untouched_copy_is_read_once_and_believed(home: Path, models: Any) -> None:
    start_twice(models["one"])
    path = only(home)
    os.utime(path)  # as a copy or a restored backup has it
    assert Start(models["one"]).mapped > 0
    with open(path, "rb") as file:
        assert pack_file.is_sealed(file.fileno(), pack_file.read(file.fileno()))


@pytest.mark.parametrize("text", ["", "zz" * 32, "0" * 63, "0" * 64, "0" * 65])
def test_a_note_that_lies(home: Path, models: Any, text: str) -> None:
    before = start_twice(models["one"])
    (note,) = home.glob("*.content")
    note.write_text(text)
    np.testing.assert_array_equal(Start(models["one"]).logits, before)


# -- files that others could have written ----------------------------------------------------------------------


def test_what_others_may_write_is_not_trusted(home: Path, models: Any, tmp_path: Path, capfd: Any) -> None:
    before = start_twice(models["one"])
    path = only(home)
    home.chmod(0o777)
    assert Start(models["one"]).mapped == 0
    assert "other users may write to it" in capfd.readouterr().err
    home.chmod(0o700)
    path.chmod(0o666)
    assert Start(models["one"]).mapped == 0
    path.chmod(0o600)
    moved = path.rename(tmp_path / "moved")
    path.symlink_to(moved)
    after = Start(models["one"])
    assert after.mapped == 0
    np.testing.assert_array_equal(after.logits, before)
    if os.geteuid() == 0:
        os.chown(home, 12345, -1)
        assert Start(models["one"]).mapped == 0
        assert "belongs to another user" in capfd.readouterr().err


def test_root_s_files_serve_everyone(monkeypatch: pytest.MonkeyPatch, models: Any, home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to own files as root")
    Start(models["one"])
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert Start(models["one"]).mapped > 0


# -- folders that cannot be written ----------------------------------------------------------------------------


def test_a_home_that_cannot_be_written(models: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    expected = Start(models["one"], pack=False).logits
    monkeypatch.setenv("PYLLM_HOME", "/dev/null/home")
    done = Start(models["one"])
    assert done.packed > 0
    np.testing.assert_array_equal(done.logits, expected)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("pyllm: packed weights are not kept for the next start: /dev/null/home")


def test_a_full_disk_leaves_nothing(models: Any, home: Path, capfd: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as on a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with LLM(models["wide"], threads=2) as llm:
            packing = llm._packing
            assert packing is not None
            assert packing._written is not None
            packing._written.wait()
            llm.logits(TOKENS)
            assert capfd.readouterr().err == ""  # nothing lands inside an answer
        packing.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert kept(home) == []
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "not kept for the next start: " in said
    assert Start(models["wide"]).mapped == 0
    assert Start(models["wide"]).mapped > 0


def test_a_cancelled_write_leaves_nothing(models: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = packing.Packing(_core.GgufFile(models["wide"]))
    _core.Model(made._file, threads=1, packed=made.weights)
    written: list[int] = []
    write_all = pack_file._write_all

    def slow(fd: int, parts: list[memoryview]) -> None:
        write_all(fd, parts)
        written.append(len(kept(home)))
        made.cancel()

    monkeypatch.setattr(pack_file, "_write_all", slow)
    made.keep()
    made.finish()
    assert written[0] == 1  # half written, it was there
    assert kept(home) == []


# Begins to write slowly, says so, and then does what argv[2] says.
SLOW = """
import os, sys, threading, time
from pyllm import LLM, pack_file, packs
packs.SMALLEST = 0
pack_file.BLOCK = 4096
write_all, begun, writer = pack_file._write_all, threading.Event(), None
def slow(fd, parts):
    write_all(fd, parts)
    begun.set()
    time.sleep(0.1)
pack_file._write_all = slow
with LLM(sys.argv[1], threads=1) as llm:
    begun.wait()
    print("writing", flush=True)
    exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("then", "sent"),
    [("time.sleep(60)", signal.SIGINT), ("pass", signal.SIGINT), ("time.sleep(60)", signal.SIGKILL)],
    ids=["Ctrl-C", "Ctrl-C at the end", "killed"],
)
def test_a_process_that_is_ended_while_it_writes(models: Any, home: Path, then: str, sent: int) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(models["wide"]), then], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    (partial,) = kept(home)
    assert partial.endswith(".partial")
    time.sleep(0.3)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert (kept(home) == [partial]) == (sent == signal.SIGKILL)
    Start(models["wide"])
    only(home)


def test_a_closed_model_frees_its_packed_weights(models: Any) -> None:
    made = packing.Packing(_core.GgufFile(models["one"]))
    model = _core.Model(made._file, threads=1, packed=made.weights)
    pieces = [weakref.ref(piece) for piece in made.weights.pieces[:1]]
    weights = weakref.ref(made.weights)
    made.keep()
    made.finish()
    del model
    gc.collect()
    assert weights() is None
    assert pieces[0]() is None


def test_a_terminal_sees_the_packing(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    made = packing.Packing(_core.GgufFile(models["one"]))
    _core.Model(made._file, threads=1, packed=made.weights)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    deadline = time.monotonic() + 30
    with made.shown():
        while "%" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert re.fullmatch(r"(\rpyllm: packing weights \d+ %)+\r\x1b\[K", screen.getvalue())


def test_a_load_can_be_cancelled(models: Any) -> None:
    weights = _core.PackedWeights()
    weights.cancel()
    with pytest.raises(PyllmError, match="cancelled"):
        _core.Model(_core.GgufFile(models["one"]), threads=1, packed=weights)


def test_what_a_killed_process_left_goes(models: Any, home: Path) -> None:
    home.mkdir(parents=True, mode=0o700)
    (home / "x.pack.0123.partial").write_bytes(b"half")
    Start(models["one"])
    assert kept(home) == [only(home).name]


# -- several processes -----------------------------------------------------------------------------------------


def test_starts_at_the_same_time(models: Any, home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(models["wide"]), "5"]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    hashes = set()
    for process in running:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        lines = out.split()
        assert len(lines) == 5
        hashes |= set(lines)
    assert len(hashes) == 1
    assert Start(models["wide"]).mapped > 0
    only(home)


def test_deleting_while_mapped(models: Any, home: Path) -> None:
    expected = start_twice(models["one"])
    with LLM(models["one"], threads=1) as llm:
        assert packs.clear() > 0
        assert kept(home) == []
        np.testing.assert_array_equal(llm.logits(TOKENS), expected)


def test_writers_and_sweepers(home: Path) -> None:
    """Whoever tidies the folder never takes a living writer's file."""
    packs.prepare()
    stop = threading.Event()

    def tidy() -> None:
        while not stop.is_set():
            packs.prepare()

    thread = threading.Thread(target=tidy)
    thread.start()
    try:
        for i in range(200):
            with packs.new_file(home / f"{i}.pack") as fd:
                os.write(fd, b"x" * 10)
    finally:
        stop.set()
        thread.join()
    assert len(kept(home)) == 200
    assert all((home / name).stat().st_size == 10 for name in kept(home))


# -- the folder's size -----------------------------------------------------------------------------------------


def test_the_least_recently_used_goes(models: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wide", "one", "two"):
        Start(models[name])
    sizes = {pack.model: pack.bytes for pack in packs.packs()}
    (wide,) = (pack.path for pack in packs.packs() if pack.model == "wide.gguf")
    wide.unlink()
    assert Start(models["one"]).mapped > 0  # used again: now `two` is the oldest
    monkeypatch.setenv("PYLLM_PACK_LIMIT", str(sizes["one.gguf"] + sizes["wide.gguf"] + 1000))
    Start(models["wide"])
    assert [pack.model for pack in packs.packs()] == ["wide.gguf", "one.gguf"]
    assert len(list(home.glob("*.content"))) == 2  # what is not kept is not remembered
    assert Start(models["one"]).mapped > 0
    monkeypatch.setenv("PYLLM_PACK_LIMIT", str(sizes["two.gguf"] + 1000))
    Start(models["two"])
    assert [pack.model for pack in packs.packs()] == ["two.gguf"]


def test_a_folder_that_cannot_be_looked_at_is_nobodys_problem(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "disk_usage", denied)
    assert Start(models["one"]).mapped == 0
    assert "packed weights are not kept for the next start" in capfd.readouterr().err


def test_a_model_larger_than_the_limit(
    models: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("PYLLM_PACK_LIMIT", "10kB")
    Start(models["one"])
    assert kept(home) == []
    assert "PYLLM_PACK_LIMIT" in capfd.readouterr().err
    monkeypatch.setenv("PYLLM_PACK_LIMIT", "0")
    Start(models["one"])
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("PYLLM_PACK_LIMIT", "lots")
    with pytest.raises(PyllmError, match="PYLLM_PACK_LIMIT: 'lots': expected an amount"):
        Start(models["one"])


# -- doctor ----------------------------------------------------------------------------------------------------


def doctor(*options: str) -> tuple[int, Any, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pyllm", "doctor", "--json", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_rm_deletes_what_is_kept_of_a_model(models: Any, home: Path) -> None:
    folder = home.parent / "models" / "mine"
    folder.mkdir(parents=True)
    path = Path(shutil.copy(models["one"], folder / "m.gguf"))
    source = {"kind": "huggingface", "repo": "a/b", "file": "m.gguf"}
    (folder / "model.json").write_text(json.dumps({"name": "mine", "file": "m.gguf", "sources": [source]}))
    Start(path)
    Start(models["two"])
    assert len(kept(home)) == 2
    size = path.stat().st_size
    assert remove("mine") > 1.5 * size
    assert [pack.model for pack in packs.packs()] == ["two.gguf"]


def test_doctor_shows_verifies_and_clears(models: Any, home: Path) -> None:
    Start(models["one"])
    path = only(home)
    code, about, _ = doctor("--verify")
    assert (code, about["problems"]) == (0, [])
    packed = about["packed"]
    assert packed["path"] == str(home)
    assert packed["total"] == path.stat().st_size <= packed["limit"]
    (file,) = packed["files"]
    assert (file["name"], file["model"], file["problem"]) == (path.name, "one.gguf", "")
    modified = path.stat().st_mtime_ns
    flip(path, 5000)
    os.utime(path, ns=(modified, modified))  # damage that no time tells of
    assert doctor()[0] == 0
    code, about, _ = doctor("--verify")
    assert code == 1
    assert "do not match their checksum" in about["problems"][0]
    code, about, said = doctor("--clear-packed")
    assert (code, about["packed"]["files"], about["packed"]["total"]) == (0, [], 0)
    assert "deleted" in said
    assert list(home.iterdir()) == []


# -- what C++ checks itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        ("a", 0, 4097),
        ("a", 4096, 1),
        ("a", -64, 64),
        ("a", 0, 0),
        ("a", 1, 10),
        ("a", 64, 2**63 - 1),
        ("a", 2**62, 2**62),
    ],
    ids=str,
)
def test_places_outside_the_file(tmp_path: Path, place: tuple[str, int, int]) -> None:
    (tmp_path / "f").write_bytes(bytes(4096))
    with open(tmp_path / "f", "rb") as file:
        _core.PackedWeights(file.fileno(), [("a", 0, 4096), ("b", 64, 10)])
        with pytest.raises(PyllmError, match="a: bytes"):
            _core.PackedWeights(file.fileno(), [place])
        with pytest.raises(PyllmError, match="twice"):
            _core.PackedWeights(file.fileno(), [("a", 0, 64), ("a", 0, 64)])


def test_things_that_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file, pytest.raises(PyllmError, match="not empty"):
        _core.PackedWeights(file.fileno(), [])
    with pytest.raises(PyllmError):
        _core.PackedWeights(-1, [])
