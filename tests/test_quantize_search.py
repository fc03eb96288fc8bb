"""pyllm quantize by a text: importance matrices of our own, goals for the loss, and goals for the size."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pyllm import LLM, _core
from pyllm.calibration import record
from pyllm.cli.app import app
from pyllm.errors import PyllmError
from pyllm.perplexity import perplexity
from pyllm.quantize.choice import Option, choose, convex_hull
from pyllm.quantize.importance import read_importance
from pyllm.quantize.judge import Judge
from pyllm.quantize.plan import Planned
from pyllm.quantize.quantize import quantize
from pyllm.quantize.trial import Tensors
from pyllm.shapes import write_model
from pyllm.weights import GgufSource

WORDS = ("rain", "river", "bridge", "stone", "fire", "night", "green", "walked", "slept", "found", "three")


@pytest.fixture(autouse=True)
def few_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two and three bits take a while to write."""
    monkeypatch.setattr("pyllm.quantize.search.CANDIDATES", ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_NL", "Q3_K"))


def text(length: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, length))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder / "m.gguf", dim=256, ffn=256, layers=2, quant="F16", std=0.08, context=64)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(text(150))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_calibrating_is_recording_and_can_be_kept(model: Path, words: Path, tmp_path: Path) -> None:
    kept, once, again, plain = (tmp_path / name for name in ("i.gguf", "once.gguf", "again.gguf", "plain.gguf"))
    done = run(model, once, "--type", "q3_k_m", "--calibrate", words, "--save-importance", kept)
    assert done.exit_code == 0, done.output
    found = record(model, words.read_text(), window=64)
    reader = gguf.GGUFReader(kept)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["words.txt"]
    assert reader.fields["imatrix.chunk_size"].contents() == 64
    assert reader.fields["imatrix.chunk_count"].contents() == found.tokens // 64
    tensors = {t.name: t for t in reader.tensors}
    name = "blk.1.ffn_down.weight"
    assert list(tensors[f"{name}.in_sum2"].shape) == [256, 1]
    assert tensors[f"{name}.in_sum2"].data.view(np.float32).ravel() == pytest.approx(found.squares[name])
    assert tensors[f"{name}.counts"].data.view(np.float32).ravel() == found.tokens
    assert read_importance(kept)[name] == pytest.approx(found.importance[name])
    assert run(model, again, "--type", "q3_k_m", "--importance", kept).exit_code == 0
    assert run(model, plain, "--type", "q3_k_m").exit_code == 0
    assert once.read_bytes() == again.read_bytes() != plain.read_bytes()


def test_the_smallest_file_within_a_loss(model: Path, words: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = run(model, out, "--calibrate", words, "--max-loss", "0.02", "--loss", "kl", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    loss = {key.removeprefix("pyllm.quantize."): value for key, value in document["loss"].items()}
    assert 0.01 < loss["text.kl_mean"] <= 0.02
    assert loss["held_out.tokens"] > 0
    fields = gguf.GGUFReader(out).fields
    assert fields["pyllm.quantize.goal"].contents() == "a KL divergence of 0.02 nats at most"
    assert fields["pyllm.quantize.text.kl_mean"].contents() == pytest.approx(loss["text.kl_mean"])
    quantize(model, tmp_path / "q8.gguf", "q8_0")
    assert out.stat().st_size < 0.95 * (tmp_path / "q8.gguf").stat().st_size
    assert len({t.type for t in _core.GgufFile(out).tensors}) > 2
    with LLM(out, context=64) as small, LLM(model, context=64, precise=True) as large:
        whole = perplexity(small, words.read_text(), reference=large, window=64)
    both = [(loss[f"{part}.kl_mean"], loss[f"{part}.tokens"]) for part in ("text", "held_out")]
    mean = sum(kl * tokens for kl, tokens in both) / sum(tokens for _, tokens in both)
    assert whole["kl_mean"] == pytest.approx(mean, rel=0.02)
    assert list(tmp_path.glob(".*")) == []


def test_the_best_file_of_a_size(model: Path, words: Path, tmp_path: Path) -> None:
    out, peer = tmp_path / "out.gguf", tmp_path / "peer.gguf"
    quantize(model, peer, "q4_k_m")
    target = peer.stat().st_size
    done = run(model, out, "--calibrate", words, "--target-size", target, "--tensor", "attn_v=q8_0")
    assert done.exit_code == 0, done.output
    assert 0.9 * target < out.stat().st_size <= target
    kinds = {t.name: t.type for t in _core.GgufFile(out).tensors}
    assert kinds["blk.0.attn_v.weight"] == kinds["blk.1.attn_v.weight"] == "Q8_0"
    assert "on held-out text: perplexity" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "expected one of --type TYPE, --max-loss LOSS and --target-size SIZE"),
        (["--type", "q4_k_m", "--max-loss", "1%"], 2, "expected one of --type"),
        (["--max-loss", "1%"], 2, "--calibrate TEXT"),
        (["--max-loss", "0", "--calibrate", "TEXT"], 2, "--max-loss '0': expected a share such as 1%"),
        (["--max-loss", "1%", "--loss", "kl", "--calibrate", "TEXT"], 2, "expected nats such as 0.01"),
        (["--target-size", "big", "--calibrate", "TEXT"], 2, "--target-size 'big'"),
        (["--target-size", "1kB", "--calibrate", "TEXT"], 1, "the smallest types make"),
        (["--max-loss", "1e-9", "--loss", "kl", "--calibrate", "TEXT"], 1, "cannot be met: with the largest"),
        (["--max-loss", "1%", "--calibrate", "SHORT"], 1, "short.txt: the text has 3 windows of 64 tokens"),
        (["--type", "q4_k_m", "--calibrate", "EMPTY"], 1, "empty.txt: the text has"),
        (["--type", "q4_k_m", "--save-importance", "i.gguf"], 2, "--save-importance keeps what --calibrate"),
    ],
)
def test_what_cannot_be_done_is_told(
    model: Path, words: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    files = {"TEXT": words, "SHORT": tmp_path / "short.txt", "EMPTY": tmp_path / "empty.txt"}
    files["EMPTY"].write_text("")
    with LLM(model) as llm:
        whole = llm.tokenizer.encode(words.read_text())
        files["SHORT"].write_text(llm.tokenizer.decode(whole[: 64 * 3 + 30]))
    done = run(model, tmp_path / "out.gguf", *(files.get(a, a) for a in arguments))
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_choices_are_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    options = {
        name: [Option(str(i), int(b), float(e)) for i, (b, e) in enumerate(zip(*pair, strict=True))]
        for name, pair in {
            n: (rng.integers(10, 90, 4), rng.uniform(0, 1, 4) / (1 + rng.integers(0, 9))) for n in "abcde"
        }.items()
    }
    every = [
        (sum(o.bytes for o in chosen), sum(o.loss for o in chosen))
        for chosen in itertools.product(*options.values())
    ]
    for loss in np.linspace(min(e for _, e in every), max(e for _, e in every), 9):
        chosen = choose(options, loss=float(loss)).values()
        size, total = sum(o.bytes for o in chosen), sum(o.loss for o in chosen)
        assert total <= loss + 1e-12
        assert not any(b <= size and e < total - 1e-12 for b, e in every if b == size)
        assert size <= min(b for b, e in every if e <= loss) + 80  # but for the last step
        same = choose(options, bytes=size).values()
        assert sum(o.bytes for o in same) <= size
        assert sum(o.loss for o in same) <= total + 1e-12
    hull = convex_hull([Option("a", 1, 9), Option("b", 2, 8.9), Option("c", 3, 1), Option("d", 4, 2)])
    assert [o.type for o in hull] == ["a", "c"]


def test_errors_of_types_are_those_of_the_file(model: Path) -> None:
    source = GgufSource(model)
    name = "blk.0.attn_k.weight"  # 128 rows: all are looked at
    importance = np.random.default_rng(0).gamma(1, 1, 256).astype(np.float32)
    tensors = Tensors(source, {name: importance})
    planned = Planned(name, (128, 256), "F16", "F16", "F16")
    found = tensors.errors(planned, ["Q4_K", "Q8_0"])
    x = _core.dequantize("F16", source.rows(name, 0, 128), 128 * 256).reshape(128, 256).astype(np.float64)
    for kind, error in found.items():
        y = _core.dequantize(kind, tensors.as_type(planned, kind), 128 * 256).reshape(128, 256)
        assert error == pytest.approx((np.square(x - y) * importance).sum(), rel=1e-4)
    assert found["Q8_0"] < 0.01 * found["Q4_K"]


def test_a_judge_says_what_perplexity_says(model: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    quantize(model, small, "q3_k_m")
    with LLM(small, context=64) as llm, LLM(model, context=64) as reference:
        tokens = llm.tokenizer.encode(text(80, seed=1))
        windows = [tokens[i : i + 64] for i in range(0, len(tokens) - 63, 64)]
        if llm.tokenizer.add_bos:
            windows = [[tokens[0], *window[1:]] for window in windows]
        expected = perplexity(llm, text(80, seed=1), reference=reference, window=64)
    file = _core.GgufFile(small)
    weights = {t.name: (t.type, np.array(file.tensor_data(t.name))) for t in file.tensors}
    judge = Judge(model, windows, 32)
    loss = judge.loss(weights)
    assert loss.kl == pytest.approx(expected["kl_mean"], rel=1e-3)
    assert loss.perplexity == pytest.approx(expected["perplexity"] / expected["reference_perplexity"] - 1)
    assert loss.top1 == pytest.approx(1 - expected["top1_agreement"])
    assert judge.loss({}).kl == pytest.approx(0, abs=1e-6)


def test_replaced_weights_must_fit(model: Path) -> None:
    file = _core.GgufFile(model)
    with pytest.raises(PyllmError, match=r"blk\.0\.attn_q\.weight: 7 bytes of Q8_0 are not its 65536 weights"):
        file.replace("blk.0.attn_q.weight", "Q8_0", np.zeros(7, np.uint8))
    with pytest.raises(PyllmError, match="no such tensor"):
        file.replace("blk.9.attn_q.weight", "Q8_0", np.zeros(7, np.uint8))
    with pytest.raises(PyllmError, match="unknown tensor type Q9"):
        file.replace("blk.0.attn_q.weight", "Q9", np.zeros(7, np.uint8))
