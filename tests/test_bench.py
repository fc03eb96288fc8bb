"""pyllm bench on tiny models, and what its figures are made of."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pyllm
from pyllm import _core
from pyllm.bench import machine as machine_module
from pyllm.bench.machine import describe, machine
from pyllm.bench.memory import peak_resident_bytes, reset_peak
from pyllm.bench.report import Bench
from pyllm.bench.speed import Speed
from pyllm.bench.speed import Test as SpeedTest
from pyllm.bench.start import watch
from pyllm.bench.work import Need, Work
from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.shapes import PRESETS, write_model, write_shape

ROOT = Path(pyllm.__file__).parents[1]
FAST = ("--prompt", "8", "--gen", "4", "--batch", "1", "--repeat", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_model(path, dim=64, ffn=128, quant="Q8_0", context=256)


@pytest.fixture
def run(tmp_path):
    def call(*arguments, env=None):
        done = subprocess.run(
            [sys.executable, "-m", "pyllm", "bench", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **(env or {})},
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_json(run, model):
    options = ["--prompt", "8,32", "--gen", "4", "--batch", "1,3", "--depth", "0,40", "--repeat", "2", "--json"]
    code, out, err = run(model, *options)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["model"] == str(model)
    assert report["threads"] == _core.cpu_threads()
    assert report["isa"] == _core.active_isa()
    assert report["device"] == describe(machine())
    assert report["ceilings"]["read_gbps"] > 0
    assert report["ceilings"]["int8_tops"] > 0
    assert [(r["test"], r["tokens"], r["batch"], r["context"]) for r in report["results"]] == [
        (test, tokens, batch, depth)
        for depth in (0, 40)
        for test, tokens, batch in [("prompt", 8, 1), ("prompt", 32, 1), ("decode", 4, 1), ("decode", 4, 3)]
    ]
    for result in report["results"]:
        rate = result["tokens_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert set(result["of_ceiling"]) == {"read", "int8"}
        assert all(0 <= share < 1 for share in result["of_ceiling"].values())
    start = report["start"]
    assert start["first_token_s"]["min"] >= start["ready_s"]["min"] > start["load_s"]["min"] > 0
    memory = report["memory"]
    assert memory["file_bytes"] == model.stat().st_size
    assert memory["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 2  # layers, K and V, KV heads, head, bytes
    assert min(memory["start_peak_bytes"], memory["run_peak_bytes"]) > 10_000_000


def test_table_and_plot(run, model, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "bench.svg"
    code, out, err = run(model, *FAST, "--depth", "0,16", "--plot", picture)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{model} on ")
    assert lines[1].startswith("ceilings: memory read ")
    header = lines.index(next(line for line in lines if line.startswith("TEST")))
    columns = ["TEST", "TOKENS", "BATCH", "CONTEXT", "TOKENS/S", "MIN", "MAX", "READ", "INT8"]
    assert lines[header].split() == columns
    rows = lines[header + 1 : header + 5]
    assert [row.split()[:4] for row in rows] == [
        ["prompt", "8", "1", "0"],
        ["decode", "4", "1", "0"],
        ["prompt", "8", "1", "16"],
        ["decode", "4", "1", "16"],
    ]
    assert len({len(line.rstrip()) for line in lines[header : header + 5]}) == 1  # the last column is flush
    assert "first token" in out
    assert "keys and values of a token" in out
    drawn = picture.read_text()
    assert drawn.lstrip().startswith("<?xml")
    assert drawn.count("<path") > 10


def test_only_some_parts(run, model):
    code, out, _ = run(model, *FAST, "--only", "decode", "--json")
    report = json.loads(out)
    assert code == 0
    assert [result["test"] for result in report["results"]] == ["decode"]
    assert "start" not in report
    code, out, _ = run(model, *FAST, "--only", "start", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["results"] == []
    assert report["start"]["ready_s"]["min"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "1,x"], "--batch: expected whole numbers from 1"),
        (["--batch", "0"], "--batch: expected whole numbers from 1"),
        (["--prompt", ""], "--prompt: expected whole numbers from 1"),
        (["--prompt", "9" * 30], "--prompt: expected whole numbers from 1"),
        (["--depth", "-1"], "--depth: expected whole numbers from 0"),
        (["--gen", "0"], "'--gen'"),
        (["--repeat", "0"], "'--repeat'"),
        (["--only", "start,nothing"], "--only: expected some of start, prompt, decode"),
        (["--shape", "llama-1b:q4_k_m"], "give one of them"),
        (["--plot", "picture.gguf"], "ends in one of"),
        (["--plot", "nowhere/picture.png"], "there is no folder"),
    ],
)
def test_wrong_usage(run, model, options, said):
    if "--plot" in options:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, out, err = run(model, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_shapes_that_do_not_exist(run, tmp_path):
    for shape, said in (("nothing", "unknown shape"), ("llama-1b:nothing", "unknown type")):
        code, out, err = run("--shape", shape)
        assert (code, out) == (2, "")
        assert said in err
    assert not (tmp_path / "home").exists()


def test_a_plot_without_matplotlib(run, model, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code, out, err = run(model, "--plot", tmp_path / "x.png", env=env)
    assert (code, out) == (2, "")
    assert err.startswith("pyllm: a plot needs matplotlib: pip install matplotlib")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [(["--prompt", "400"], 1, "context"), (["--threads", "100000"], 2, "pyllm: --threads: expected at most")],
)
def test_what_cannot_run_is_one_line(run, model, options, code, said):
    found, out, err = run(model, *options)
    assert (found, out) == (code, "")
    assert err.startswith("pyllm: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_missing_model(run, tmp_path):
    code, _, err = run(tmp_path / "none.gguf")
    assert code == 1
    assert "no such file" in err


def test_help_names_every_shape(run):
    words = run("--help")[1].replace(",", " ").replace(";", " ").split()
    assert set(PRESETS) <= set(words)


def test_a_shape_by_name(run, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from pyllm.shapes import PRESETS, Shape\nPRESETS['small'] = Shape(dim=64, ffn=96)\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for first in (True, False):
        code, out, err = run("--shape", "small:q8_0", *FAST, "--only", "prompt", "--json", env=env)
        assert code == 0
        assert json.loads(out)["model"] == "small:q8_0"
        assert err == ("pyllm: writing random weights: small:q8_0 (123 kB)\n" if first else "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_shows_what_was_measured(run, model, tmp_path):
    """The second test interrupts itself: the first one's figures must still come."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from pyllm.bench.speed import Speed\n"
        "rate = Speed.rate\n"
        "def interrupted(self, test):\n"
        "    if test.test == 'decode': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return rate(self, test)\n"
        "Speed.rate = interrupted\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code, out, err = run(model, *FAST, "--json", env=env)
    report = json.loads(out)
    assert code == 130
    assert report["interrupted"] is True
    assert [result["test"] for result in report["results"]] == ["prompt"]
    assert report["results"][0]["of_ceiling"]["read"] > 0
    assert err == "pyllm: interrupted: the figures are of what was measured until then\n"
    assert "prompt" in run(model, *FAST, env=env)[1]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_while_a_start_is_measured_leaves_no_process(monkeypatch):
    timer = threading.Timer(1.0, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        watch([sys.executable, "-c", "import time; time.sleep(600)"])
    timer.join()


def test_a_start_that_fails_says_why():
    with pytest.raises(PyllmError, match="the process that measures the start failed: what happened"):
        watch([sys.executable, "-c", "import sys; sys.exit('pyllm: what happened')"])
    with pytest.raises(PyllmError, match="exit code 3"):
        watch([sys.executable, "-c", "import sys; sys.exit(3)"])


def test_depth_is_computed_once(model):
    with LLM(model, context=128, max_sequences=2) as llm:
        speed = Speed(llm)
        test = SpeedTest("decode", 4, batch=2, context=64)
        speed.warm_up(test)
        before = llm.stats()["tokens_computed"]
        assert speed.rate(test) > 0
        # Of each sequence: one token after the depth, then four.
        assert llm.stats()["tokens_computed"] - before == 2 * (1 + 4)
        before = llm.stats()["tokens_computed"]
        speed.rate(SpeedTest("prompt", 10, context=64))
        assert llm.stats()["tokens_computed"] - before == 10


def test_a_depth_that_the_cache_does_not_hold(model):
    with LLM(model, context=256, max_sequences=4, kv_bytes=256 * 256) as llm:
        speed = Speed(llm)
        speed.check(SpeedTest("decode", 4, batch=1, context=200))
        with pytest.raises(PyllmError, match="more than the 256 that the KV cache has memory for"):
            speed.check(SpeedTest("decode", 4, batch=2, context=200))
        with pytest.raises(PyllmError, match="more than the context of 256"):
            speed.check(SpeedTest("prompt", 100, context=200))


def test_work_of_a_model(tmp_path):
    path = write_model(
        tmp_path / "m.gguf", dim=64, layers=3, ffn=128, vocab=300, quant="Q8_0", heads=4, kv_heads=2
    )
    work = Work.of(_core.GgufFile(path), kv_bytes_per_token=3 * 2 * 2 * 16 * 2)
    layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128
    assert work.body_weights == 3 * layer
    assert work.head_weights == 300 * 64  # output.weight; the embedding is only looked up
    assert work.body_bytes == work.body_weights * 34 // 32
    assert work.windows == (0, 0, 0)
    assert work.kv_bytes(100) == 100 * 384
    need = work.decode(10, batch=2, context=95)
    assert need.operations == 10 * 2 * 2 * (work.body_weights + work.head_weights)
    assert need.read == 10 * (work.body_bytes + work.head_bytes + 2 * 100 * 384)
    prompt = work.prompt(1000, context=0)
    assert prompt.operations == 2 * (1000 * work.body_weights + work.head_weights)
    assert prompt.read == 2 * work.body_bytes + work.head_bytes + (512 + 1000) * 384


def test_work_of_a_tied_model_with_windows(tmp_path):
    shape = PRESETS["gemma3-270m"]
    small = {"dim": 64, "ffn": 64, "vocab": 320, "head_dim": 16, "layers": 12, "sliding_window": 64}
    path = write_shape(tmp_path / "m.gguf", type(shape)(**{**vars(shape), **small}), "q8_0")
    work = Work.of(_core.GgufFile(path), kv_bytes_per_token=1200)
    assert work.head_weights == 320 * 64
    assert work.windows == (64,) * 5 + (0,) + (64,) * 5 + (0,)
    assert work.kv_bytes(10) == 10 * 1200
    assert work.kv_bytes(1000) == pytest.approx(100 * (10 * 64 + 2 * 1000))


def test_shares_of_the_ceilings():
    shares = Need(read=5e9, operations=1e11).shares(0.5, {"read_gbps": 20.0, "int8_tops": 2.0})
    assert shares == {"read": 0.5, "int8": 0.1}


def test_machine_tells_processors_apart(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
        "flags\t\t: fpu avx2 avx_vnni avx512_vnni sse\n\nprocessor\t: 1\nmodel\t\t: 99\n"
    )
    monkeypatch.setattr(machine_module, "CPUINFO", info)
    about = machine()
    assert (about["family"], about["model"], about["stepping"]) == (26, 2, 1)
    assert about["flags"] == ["avx2", "avx_vnni", "avx512_vnni"]
    assert describe(about) == "AMD EPYC (family 26, model 2, stepping 1)"
    monkeypatch.setattr(machine_module, "CPUINFO", tmp_path / "none")
    assert machine()["flags"] == []
    assert describe(machine())


def test_peak_memory_follows_what_is_resident():
    reset_peak()
    before = peak_resident_bytes()
    if not before:
        pytest.skip("this system does not tell")
    block = bytearray(b"x") * 50_000_000
    assert peak_resident_bytes() - before > 40_000_000
    del block


def test_a_bench_holds_what_was_measured_before_an_error(model, monkeypatch):
    def fail(self, test):
        if test.test == "decode":
            raise PyllmError("no more")
        return 10.0

    monkeypatch.setattr(Speed, "rate", fail)
    bench = Bench(
        "tiny", model, [SpeedTest("prompt", 8), SpeedTest("decode", 4)], threads=1, repeat=3, with_start=False
    )
    with pytest.raises(PyllmError, match="no more"):
        bench.run(lambda _: None)
    assert bench.rates == {SpeedTest("prompt", 8): [10.0] * 3}
    assert math.isclose(bench.report()["results"][0]["tokens_per_second"]["median"], 10.0)
