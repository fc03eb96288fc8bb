"""`pyllm perplexity`: the window rules, against the plain computation from all logits at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("pyllm._core")
from pyllm import LLM
from pyllm.cli.app import app
from pyllm.errors import PyllmError
from pyllm.perplexity import perplexity
from pyllm.shapes import write_model

TEXT = "It rained for three days, and on the fourth the river took the bridge. " * 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        write_model(folder / "a.gguf", quant="F16", std=0.3),
        write_model(folder / "b.gguf", quant="F16", std=0.3, seed=1),
    )


@pytest.fixture(scope="module")
def pair(models: tuple[Path, Path]) -> Iterator[tuple[LLM, LLM]]:
    with LLM(models[0], max_batch_tokens=7) as a, LLM(models[1]) as b:
        yield a, b


def nats(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("window", [16, 33])
def test_it_is_what_the_logits_say(pair: tuple[LLM, LLM], window: int) -> None:
    model, reference = pair
    tokens = model.tokenizer.encode(TEXT)
    loss, divergence, same = [], [], []
    for first in range(0, len(tokens) // window * window, window):
        part = tokens[first : first + window]
        if model.tokenizer.add_bos:
            part[0] = tokens[0]
        ours, truth = nats(model.logits(part)), nats(reference.logits(part))
        for i in range(window // 2, window - 1):
            loss.append(-ours[i, part[i + 1]])
            divergence.append(float((np.exp(truth[i]) * (truth[i] - ours[i])).sum()))
            same.append(ours[i].argmax() == truth[i].argmax())
    report = perplexity(model, TEXT, reference=reference, window=window)
    assert report["tokens"] == len(loss)
    assert report["perplexity"] == pytest.approx(np.exp(np.mean(loss)))
    assert report["stderr"] == pytest.approx(np.exp(np.mean(loss)) * np.std(loss, ddof=1) / np.sqrt(len(loss)))
    assert report["kl_mean"] == pytest.approx(np.mean(divergence))
    assert report["kl_p99"] == pytest.approx(np.quantile(divergence, 0.99))
    assert report["top1_agreement"] == pytest.approx(np.mean(same))
    assert report["kl_mean"] > 0.01  # they are two models


def test_a_model_is_no_distance_from_itself(pair: tuple[LLM, LLM]) -> None:
    report = perplexity(pair[0], TEXT, reference=pair[0], window=32, windows=2)
    assert report["windows"] == 2
    assert report["tokens"] == 2 * 15
    assert report["kl_max"] == pytest.approx(0.0, abs=1e-12)
    assert report["top1_agreement"] == 1.0
    assert report["perplexity"] == report["reference_perplexity"]


def test_what_cannot_be_scored_is_told(pair: tuple[LLM, LLM], tmp_path: Path) -> None:
    with pytest.raises(PyllmError, match="expected at least a window of 512"):
        perplexity(pair[0], "short")
    with pytest.raises(PyllmError, match="window: expected 4 to 2048 tokens"):
        perplexity(pair[0], TEXT, window=2)
    with (
        LLM(write_model(tmp_path / "other.gguf", vocab=400)) as other,
        pytest.raises(PyllmError, match="the reference has 400 tokens, the model 320"),
    ):
        perplexity(pair[0], TEXT, reference=other, window=32)


def test_the_command(models: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pyllm", "perplexity", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "PYLLM_HOME": str(tmp_path / "home")},
            check=False,
        )

    done = run(models[0], "-f", "-", "--reference", models[1], "--window", 16, "--json", stdin=TEXT)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert {"perplexity", "stderr", "tokens", "kl_mean", "kl_median", "kl_p99", "top1_agreement"} <= set(report)
    done = run(models[0], "-f", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "none.txt" in done.stderr


def test_several_models_and_their_picture(models: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (tmp_path / "text").write_text(TEXT)
    options = [
        "perplexity",
        *map(str, models),
        "-f",
        str(tmp_path / "text"),
        "--window",
        "16",
        "--windows",
        "2",
    ]
    picture = tmp_path / "curve.png"
    done = CliRunner().invoke(app, [*options, "--reference", str(models[0]), "--plot", str(picture), "--json"])
    assert done.exit_code == 0, done.output
    same, other = json.loads(done.stdout)["models"]
    assert (same["model"], same["file_bytes"]) == (str(models[0]), models[0].stat().st_size)
    assert same["kl_mean"] == pytest.approx(0, abs=1e-12)
    assert other["kl_mean"] > 0.01
    assert other["reference_perplexity"] == same["perplexity"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(app, options)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["MODEL", *map(str, models)]
    done = CliRunner().invoke(app, [*options, "--plot", str(tmp_path / "curve.gguf")])
    assert "ends in one of" in done.stderr
