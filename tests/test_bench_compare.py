"""tests/bench/compare.py: what it chooses and computes, and a whole run where llama-cpp-python is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyllm
from pyllm.bench.speed import Test as SpeedTest
from pyllm.shapes import write_model

HERE = Path(__file__).resolve().parent / "bench"
ROOT = Path(pyllm.__file__).parents[1]

spec = importlib.util.spec_from_file_location("compare", HERE / "compare.py")
assert spec is not None
assert spec.loader is not None
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)


def test_the_peer_may_choose():
    settings = compare.peer_settings(SpeedTest("prompt", 512), 4)
    assert [(s["fused"], s["ubatch"], s["threads"]) for s in settings] == [
        (fused, size, 4) for fused in (True, False) for size in (128, 512)
    ]
    assert 2048 in {s["ubatch"] for s in compare.peer_settings(SpeedTest("prompt", 4096), 4)}
    assert {s["threads"] for s in compare.peer_settings(SpeedTest("decode", 16), 4)} == {4, 2}
    assert {s["threads"] for s in compare.peer_settings(SpeedTest("decode", 16), 1)} == {1}
    deep = compare.peer_settings(SpeedTest("decode", 16, context=8192), 4)
    assert deep == [{"fused": fused, "ubatch": 512, "threads": 4} for fused in (True, False)]


def test_tests_of_one_depth_and_batch_are_together():
    tests = [
        SpeedTest("prompt", 512),
        SpeedTest("decode", 16),
        SpeedTest("decode", 16, 8),
        SpeedTest("prompt", 64),
    ]
    assert list(compare.groups(tests)) == [[tests[0], tests[1], tests[3]], [tests[2]]]


class FakeWorker:
    """Answers every request with the next of `rates`, by test."""

    def __init__(self, rates):
        self.rates, self.asked = rates, []

    def ask(self, do, test=None, setting=None, **_):
        self.asked.append((do, setting and setting["fused"]))
        if do == "rate":
            return self.rates(setting)
        return {"read": 1e9, "operations": 1e12} if do == "need" else None


def test_pairs_and_the_best_setting(monkeypatch):
    ours_rates = iter([20.0, 30.0, 40.0])
    ours = FakeWorker(lambda _: next(ours_rates))
    # Fused attention seems better when tried, the other is better in the repeats; half the threads never.
    fused, plain = iter([10.2, 5.0, 5.0, 5.0]), iter([10.0, 10.0, 20.0, 10.0])
    slow = {"threads": 1}
    peer = FakeWorker(
        lambda s: 1.0 if s["threads"] == slow["threads"] else next(fused) if s["fused"] else next(plain)
    )
    args = type("Args", (), {"threads": 2, "repeats": 3})
    (result,) = compare.compare_speed(ours, peer, [SpeedTest("decode", 10)], args)
    assert result["llama.cpp"]["setting"] == {"fused": False, "ubatch": 512, "threads": 2}
    assert result["pyllm"]["all"] == [20.0, 30.0, 40.0]
    assert result["ratio"] == {"median": 2.0, "min": 1.5, "max": 4.0, "all": [2.0, 1.5, 4.0]}
    assert len(result["tried"]) == 4
    assert peer.asked.count(("rate", True)) == peer.asked.count(("rate", False)) == 2 + 3
    assert peer.asked[-1][0] == "keep"


def test_what_a_depth_adds_and_the_parts_of_the_ceilings():
    def result(context, ours, theirs):
        sizes = {"test": "decode", "tokens": 10, "batch": 1, "context": context}
        need = {"read": 1e9, "operations": 1e12}
        return sizes | {"pyllm": {"median": ours}, "llama.cpp": {"median": theirs}, "need": need}

    found = {
        "ceilings": {"read_gbps": 10.0, "int8_tops": 4.0},
        "results": [result(0, 50, 20), result(99, 20, 10)],
    }
    compare.finish(found)
    shallow, deep = found["results"]
    assert "depth_adds_ms_per_token" not in shallow["pyllm"]
    assert deep["pyllm"]["depth_adds_ms_per_token"] == pytest.approx(30.0)
    assert deep["llama.cpp"]["depth_adds_ms_per_token"] == pytest.approx(50.0)
    assert shallow["pyllm"]["of_ceiling"] == {"read": 0.5, "int8": 1.25}


@pytest.mark.parametrize("arguments", [[], ["x.gguf", "--batch", "0"], ["--shape", "nothing"]])
def test_wrong_usage(arguments, tmp_path):
    command = [sys.executable, HERE / "compare.py", *arguments, "--output", tmp_path / "out.json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYLLM_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(
    not os.environ.get("PYLLM_LLAMA_PYTHON") and importlib.util.find_spec("llama_cpp") is None,
    reason="neither is llama-cpp-python installed, nor does PYLLM_LLAMA_PYTHON name an interpreter that has it",
)
def test_a_whole_run(tmp_path):
    model = write_model(tmp_path / "m.gguf", quant="Q4_0", context=512)
    command = [sys.executable, HERE / "compare.py", model, "--prompt", "8", "--gen", "2", "--batch", "1,2"]
    command += ["--depth", "0,32", "--repeats", "2", "--threads", "1", "--output", tmp_path / "out.json"]
    command += ["--llama-python", os.environ.get("PYLLM_LLAMA_PYTHON") or sys.executable]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYLLM_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "fused" in done.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    found = report["models"]["m.gguf"]
    assert report["machine"]["cpu"]
    assert len(found["results"]) == 6
    for result in found["results"]:
        assert len(result["ratio"]["all"]) == len(result["pyllm"]["all"]) == 2
        assert result["ratio"]["min"] > 0
    assert set(found["start"]) == {"ready_s", "first_token_s", "load_s", "peak_bytes"}
