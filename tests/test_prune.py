"""pyllm prune: what is left computes what an independent implementation computes without the same parts."""

from __future__ import annotations

import itertools
import json
import math
import sys
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from gguf_files import types, weights
from vocabularies import CONTROL, byte_level, pieces, write_vocabulary

from pyllm import LLM, _core
from pyllm.cli.app import app
from pyllm.errors import PyllmError
from pyllm.perplexity import perplexity
from pyllm.prune.draft import Draft
from pyllm.prune.ffn import kept_channels
from pyllm.prune.goal import Figure, Goal
from pyllm.prune.layers import periodic
from pyllm.prune.prune import Amounts, prune
from pyllm.prune.search import largest_that_fits, steps
from pyllm.prune.sparsity import Pattern
from pyllm.prune.vocabulary import tokens_for
from pyllm.shapes import write_model
from pyllm.tokenizer import Tokenizer
from pyllm.weights import GgufSource

GOLDEN = Path(__file__).resolve().parent / "golden"
sys.path.insert(0, str(GOLDEN.parent / "oracle"))
CASES = sorted(path.stem for path in (GOLDEN / "pruned").glob("*.npz"))


@cache
def golden(case: str) -> dict[str, npt.NDArray[np.generic]]:
    return dict(np.load(GOLDEN / "pruned" / f"{case}.npz"))


def chosen(case: str) -> tuple[Amounts, dict[str, np.ndarray], list[float]]:
    """What makes prune choose the golden model's parts: nothing flows through the others."""
    kept, path = golden(case), GOLDEN / "architectures" / f"{case}.gguf"
    file = _core.GgufFile(path)
    shapes = {tensor.name: tuple(reversed(tensor.shape)) for tensor in file.tensors}
    layers, arch = file.get(f"{file.get('general.architecture')}.block_count"), file.get("general.architecture")
    kv_heads = file.get(f"{arch}.attention.head_count_kv")
    importance = {name: np.ones(shape[-1], np.float32) for name, shape in shapes.items() if len(shape) == 2}
    for layer in range(layers):
        channels = importance[f"blk.{layer}.ffn_down.weight"]
        channels[np.setdiff1d(np.arange(len(channels)), kept["channels"][layer])] = 0
        heads = importance[f"blk.{layer}.attn_output.weight"].reshape(kv_heads, -1)
        heads[np.setdiff1d(np.arange(kv_heads), kept["groups"][layer])] = 0
    influence = [float(layer in kept["layers"]) for layer in range(layers)]
    ffn = shapes["blk.0.ffn_down.weight"][1]
    amounts = Amounts(
        layers=layers - len(kept["layers"]),
        ffn=1 - kept["channels"].shape[1] / ffn,
        heads=kv_heads - kept["groups"].shape[1],
        tokens=kept["vocabulary"],
    )
    return amounts, importance, influence


def pruned(case: str, target: Path) -> Path:
    prune(GOLDEN / "architectures" / f"{case}.gguf", target, *chosen(case))
    return target


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers_without_the_same_parts(case: str, tmp_path: Path) -> None:
    path = pruned(case, tmp_path / "out.gguf")
    expected = golden(case)["logits"]
    with LLM(path, pack=False) as llm:
        found = llm.logits(golden(case)["tokens"].tolist())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


# -- layers ----------------------------------------------------------------------------------------------------


def test_the_layers_with_least_influence_go(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, layers=5, quant="F16")
    done = prune(model, tmp_path / "out.gguf", Amounts(layers=2), {}, [0.5, 0.1, 0.3, 0.2, 0.4])
    assert done.layers == [1, 3]
    for new, old in enumerate([0, 2, 4]):
        for part in ("attn_q", "ffn_down", "ffn_norm"):
            kept = weights(tmp_path / "out.gguf", f"blk.{new}.{part}.weight")
            assert np.array_equal(kept, weights(model, f"blk.{old}.{part}.weight"))
    file = _core.GgufFile(tmp_path / "out.gguf")
    assert file.get("llama.block_count") == 3
    assert file.numbers("pyllm.prune.layers") == [1, 3]


@pytest.mark.parametrize("seed", range(8))
def test_gemmas_global_layers_stay_evenly_spaced(seed: int) -> None:
    """Against all choices there are."""
    rng = np.random.default_rng(seed)
    influence, keep = rng.random(9), int(rng.integers(1, 9))
    is_global = [(i + 1) % 3 == 0 for i in range(9)]

    def even(layers: tuple[int, ...]) -> bool:
        flags = [is_global[i] for i in layers]
        return any(flags == [(i + 1) % n == 0 for i in range(keep)] for n in range(1, keep + 2))

    possible = [layers for layers in itertools.combinations(range(9), keep) if even(layers)]
    found, period = periodic(influence.tolist(), is_global, keep)
    assert tuple(found) == max(possible, key=lambda layers: sum(influence[list(layers)]))
    assert [is_global[i] for i in found] == [(i + 1) % period == 0 for i in range(keep)]


def test_values_of_each_layer_go_with_it(tmp_path: Path) -> None:
    """Gemma 3's pattern as flags, which only pyllm reads, becomes a number that every engine reads."""
    flags = [1, 1, 0, 1, 1, 0]
    model = write_model(
        tmp_path / "m.gguf",
        "gemma3",
        dim=64,
        ffn=64,
        layers=6,
        quant="F16",
        **{"attention.sliding_window": 8, "attention.sliding_window_pattern": flags},
    )
    done = prune(model, tmp_path / "out.gguf", Amounts(layers=2), {}, [0.1, 1, 1, 0.1, 1, 1])
    assert done.layers == [0, 3]
    assert _core.GgufFile(tmp_path / "out.gguf").get("gemma3.attention.sliding_window_pattern") == 2


# -- channels and heads ----------------------------------------------------------------------------------------


def even_importance(path: Path) -> dict[str, np.ndarray]:
    return {t.name: np.ones(t.shape[0], np.float32) for t in _core.GgufFile(path).tensors if len(t.shape) == 2}


def test_channels_that_add_least_go_and_types_stay(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=96, layers=2, quant="Q4_1")
    importance = even_importance(model)
    importance["blk.1.ffn_down.weight"] = np.random.default_rng(0).gamma(0.5, 1, 96).astype(np.float32)
    done = prune(model, tmp_path / "out.gguf", Amounts(ffn=0.25), importance)
    assert done.after.ffn == 64  # at least a quarter, in steps of 32
    assert "2 of Q4_1; all others are copied" in done.notes[0]
    assert types(tmp_path / "out.gguf") == types(model)
    down = weights(model, "blk.1.ffn_down.weight")
    score = np.linalg.norm(down, axis=0) * np.sqrt(importance["blk.1.ffn_down.weight"])
    kept = np.sort(np.argsort(score)[32:])
    assert np.array_equal(
        weights(tmp_path / "out.gguf", "blk.1.ffn_up.weight"), weights(model, "blk.1.ffn_up.weight")[kept]
    )
    apart = weights(tmp_path / "out.gguf", "blk.1.ffn_down.weight") - down[:, kept]
    assert 0 < np.abs(apart).std() < 0.1 * down.std()  # in other blocks than before


def test_heads_of_whole_blocks_are_copied(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=128, heads=4, kv_heads=2, ffn=64, layers=1, quant="Q8_0")
    importance = even_importance(model)
    importance["blk.0.attn_output.weight"][:64] = 0
    done = prune(model, tmp_path / "out.gguf", Amounts(heads=1), importance)
    assert (done.after.heads, done.after.kv_heads, done.notes) == (2, 1, [])
    output = weights(model, "blk.0.attn_output.weight")
    assert np.array_equal(weights(tmp_path / "out.gguf", "blk.0.attn_output.weight"), output[:, 64:])


def test_columns_that_no_block_divides_get_another_type(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=256, heads=4, kv_heads=2, ffn=512, layers=1, quant="Q4_K")
    done = prune(model, tmp_path / "out.gguf", Amounts(heads=1, ffn=0.1), even_importance(model))
    assert done.after.ffn == 256  # a block of Q4_K
    found = types(tmp_path / "out.gguf")
    assert (found["blk.0.attn_output.weight"], found["blk.0.ffn_down.weight"]) == ("Q5_0", "Q4_K")
    assert "1 of Q4_K as Q5_0, 1 of Q4_K;" in done.notes[0]


# -- tokens ----------------------------------------------------------------------------------------------------

DOMAIN = "The river took the bridge; the bridge took the road. " * 3
ELSE = (
    "Other words are learnt here as well: quick foxes, lazy dogs and hedges. Nobody counted how many "
    "winters had gone by when the miller sold his horses, which had pulled carts through mud for years."
)
OTHER = "Größe naïve 今日は \N{GRINNING FACE} zyzzyva <|im_start|> \n\n\n\t  def f(x): return [user] <turn>"


def with_vocabulary(folder: Path, kind: str) -> Path:
    texts = [DOMAIN, ELSE]
    path = folder / "vocabulary.gguf"
    if kind == "bytes":
        tokens, merges = byte_level(texts)
        reserved = [("<|reserved_special_token_0|>", CONTROL)]
        keys = {"bos_token_id": len(tokens) - 4, "eos_token_id": len(tokens) - 3}
        write_vocabulary(path, "gpt2", tokens + reserved, pre="smollm", merges=merges, keys=keys)
    else:
        tokens, scores = pieces(texts)
        write_vocabulary(path, "llama", tokens, scores=scores, keys={"bos_token_id": 1, "eos_token_id": 2})
    return write_model(
        folder / "m.gguf", dim=32, ffn=32, layers=1, heads=2, tokenizer=path, quant="F16", tied=False
    )


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_domains_text_is_cut_as_before_and_any_other_can_be_spelt(tmp_path: Path, kind: str) -> None:
    model, out = with_vocabulary(tmp_path, kind), tmp_path / "out.gguf"
    kept = tokens_for(_core.GgufFile(model), DOMAIN)
    done = prune(model, out, Amounts(tokens=kept), {})
    before, after = Tokenizer.from_gguf(model), Tokenizer.from_gguf(out)
    assert after.vocab_size == done.after.vocab == len(kept) < 0.8 * before.vocab_size
    assert len(kept) % 32 == 0
    assert kept[after.encode(DOMAIN)].tolist() == before.encode(DOMAIN)
    assert len(after.encode(ELSE)) > len(before.encode(ELSE))
    assert after.decode(after.encode(OTHER)) == before.decode(before.encode(OTHER))
    for role in ("bos", "eos"):
        assert kept[getattr(after, role)] == getattr(before, role)
    assert {int(kept[i]) for i in after.stop_ids} == before.stop_ids
    assert b"<|reserved_special_token_0|>" not in after.vocabulary.ids
    for name in ("token_embd.weight", "output.weight"):
        assert np.array_equal(weights(out, name), weights(model, name)[kept])


def test_a_role_of_a_token_that_is_not_there(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", layers=1, **{"tokenizer.ggml.mask_token_id": 9999})
    with pytest.raises(PyllmError, match="mask_token_id: expected a token id below 320, the file has 9999"):
        tokens_for(_core.GgufFile(model), DOMAIN)


# -- single weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_the_least_weights_times_inputs_become_zero(tmp_path: Path, quant: str, pattern: str) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=96, layers=1, quant=quant)
    rng = np.random.default_rng(0)
    importance = {
        name: rng.gamma(0.5, 1, len(ones)).astype(np.float32) for name, ones in even_importance(model).items()
    }
    done = prune(model, tmp_path / "out.gguf", Amounts(sparsity=Pattern.parse(pattern)), importance)
    assert 0.5 <= done.zeros < 0.55  # Q4_0 had zeros before
    assert "no kernel here or in llama.cpp is faster" in done.notes[-1]
    name = "blk.0.ffn_down.weight"
    before, after = weights(model, name), weights(tmp_path / "out.gguf", name)
    score = np.abs(before) * np.sqrt(importance[name])
    runs = score.reshape(-1, 4) if pattern == "2:4" else score
    median = np.median(runs, axis=1, keepdims=True)
    gone = (runs < median).reshape(before.shape)
    assert not after[gone].any()
    assert np.abs(after - before)[~gone].max() < 0.2 * np.abs(before).max()
    assert types(tmp_path / "out.gguf")[name] == ("Q8_0" if quant == "Q4_1" else quant)


# -- the search ------------------------------------------------------------------------------------------------


def test_the_search_finds_the_largest_that_fits(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=512, layers=9, quant="F16")
    draft, most = Draft(GgufSource(model)), Amounts(layers=8, ffn=0.5)
    possible = list(steps(draft, most))
    assert possible[-1].layers == 8
    assert kept_channels(draft, possible[-1].ffn) == 256
    assert [a.layers for a in possible] == sorted(a.layers for a in possible)
    for limit in range(1, 9):
        tried: list[Amounts] = []

        def fits(amounts: Amounts, limit: int = limit, tried: list[Amounts] = tried) -> bool:
            tried.append(amounts)
            return amounts.layers <= limit

        found = largest_that_fits(draft, most, fits, lambda amounts: True)
        assert found == [a for a in possible if a.layers <= limit][-1]
        assert len(tried) <= 5
    assert largest_that_fits(draft, most, lambda _: True, lambda a: a.layers < 3).layers == 2
    with pytest.raises(PyllmError, match="even the least part"):
        largest_that_fits(draft, most, lambda _: False, lambda _: True)


@pytest.mark.parametrize(("figure", "loss"), [("perplexity", 0.1), ("kl", 0.3), ("top1", 0.1)])
def test_what_a_goal_is_of(figure: Figure, loss: float) -> None:
    report = {"perplexity": 11.0, "reference_perplexity": 10.0, "kl_mean": 0.3, "top1_agreement": 0.9}
    assert Goal(figure, 0.2).loss(report) == pytest.approx(loss)


# -- files that are not what they should be --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        (Amounts(layers=2), "--layers 2: the model has 2"),
        (Amounts(layers=10**9), "at least one must go and one stay"),
        (Amounts(heads=2), "--heads 2: the model has 2 KV heads"),
        (Amounts(ffn=0.999), "0 of 64 channels would be left"),
        (Amounts(ffn=1e-9), "64 of 64|32 of 64"),
        (Amounts(sparsity=Pattern(3, 7)), "no multiple of 7"),
    ],
)
def test_amounts_that_the_model_does_not_have(tmp_path: Path, amounts: Amounts, said: str) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, quant="F16")
    with pytest.raises(PyllmError, match=said):
        prune(model, tmp_path / "out.gguf", amounts, even_importance(model), [1.0, 1.0])
    assert list(tmp_path.iterdir()) == [model]


def test_heads_that_llama_cpp_could_not_load(tmp_path: Path) -> None:
    path = GOLDEN / "architectures" / "qwen2.gguf"
    with pytest.raises(PyllmError, match=r"--heads: llama.cpp takes qwen2's heads for the model's width"):
        prune(path, tmp_path / "out.gguf", Amounts(heads=1), even_importance(path))


def test_activations_of_another_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, quant="F16")
    wrong = even_importance(model) | {"blk.1.ffn_down.weight": np.ones(7, np.float32)}
    with pytest.raises(
        PyllmError, match=r"blk.1.ffn_down.weight: expected the activations of 64 columns, found 7"
    ):
        prune(model, tmp_path / "out.gguf", Amounts(ffn=0.5), wrong)
    for influence in ([1.0], [1.0, math.nan]):
        with pytest.raises(PyllmError, match="expected the influence of 2 layers"):
            prune(model, tmp_path / "out.gguf", Amounts(layers=1), {}, influence)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"general.architecture": "bert"}, "bert cannot be pruned; known: llama"),
        ({"block_count": 0}, "llama.block_count: expected 1 to"),
        ({"block_count": 99}, "blk.2.attn_q.weight: not in"),
        ({"feed_forward_length": 99}, r"blk.0.ffn_gate.weight: expected \[99, 64\]"),
        ({"attention.head_count_kv": 3}, "3 is no divisor of 4 heads"),
        ({"attention.head_count_kv": [1, 2]}, "the same for every layer"),
        ({"attention.head_count": None}, "attention.head_count: expected 1 to"),
        ({"expert_count": 8}, "mixtures of experts"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, quant="F16", **changes)
    with pytest.raises(PyllmError, match=said):
        prune(model, tmp_path / "out.gguf", Amounts(layers=1), {}, [1.0, 1.0])
    assert not (tmp_path / "out.gguf").exists()


def test_a_bias_of_another_size(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    source = GgufSource(GOLDEN / "architectures" / "llama-tied-bias.gguf")
    for key, value in source.metadata().items():
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value.value, value.type, value.element)
    for tensor in source.tensors:
        data = source.rows(tensor.name, 0, 10**6).view(np.float32).reshape(tensor.shape)
        writer.add_tensor(tensor.name, data[:-1].copy() if tensor.name == "blk.1.ffn_up.bias" else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(PyllmError, match=r"blk.1.ffn_up.bias: expected \[72\] .* has \[71\]"):
        Draft(GgufSource(tmp_path / "m.gguf"))


@pytest.mark.parametrize("amounts", [Amounts(layers=1), Amounts(ffn=0.5), Amounts(tokens=np.arange(300))])
def test_weights_that_are_not_finite_are_named_as_in_the_input(tmp_path: Path, amounts: Amounts) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, quant="F32")
    file, data = _core.GgufFile(model), bytearray(model.read_bytes())
    place = next(t.offset for t in file.tensors if t.name == "blk.1.ffn_down.weight")
    data[place + 4 * (64 * 3 + 5) : place + 4 * (64 * 3 + 5) + 4] = np.float32(np.nan).tobytes()
    model.write_bytes(data)
    with pytest.raises(PyllmError, match=r"blk.1.ffn_down.weight: the weight in row 3, column 5 is nan"):
        prune(model, tmp_path / "out.gguf", amounts, even_importance(model), [0.0, 1.0])
    assert list(tmp_path.iterdir()) == [model]


# -- the command -----------------------------------------------------------------------------------------------

TEXT = "It rained for three days, and on the fourth the river took the bridge. Nobody saw it go, but us. " * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "text.txt").write_text(TEXT)
    sizes = {"dim": 64, "ffn": 128, "layers": 4, "quant": "F32", "std": 0.15, "context": 256}
    return write_model(folder / "m.gguf", **sizes)


def run(model: Path, out: Path, *options: object) -> Result:
    given = [text.replace("TEXT", str(model.parent / "text.txt")) for text in map(str, options)]
    return CliRunner().invoke(app, ["prune", str(model), str(out), *given])


def test_before_and_after(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = run(model, out, "--layers", 1, "--ffn", "25%", "--calibrate", "TEXT", "--windows", 1, "--json")
    assert done.exit_code == 0, done.output
    assert "measured on the last 25% of the calibration text" in done.stderr
    report = json.loads(done.stdout)
    before, after = report["before"], report["after"]
    assert (report["removed"]["ffn"], len(report["removed"]["layers"])) == (32, 1)
    assert after["bytes"] == out.stat().st_size < before["bytes"] == model.stat().st_size
    for path, sizes in ((model, before), (out, after)):
        assert sizes["parameters"] == sum(math.prod(t.shape) for t in _core.GgufFile(path).tensors)
    assert {"prompt_tokens_per_second", "decode_tokens_per_second", "bits_per_byte"} <= set(before)
    assert after["prompt_speedup"] > 0
    assert after["decode_speedup"] > 0
    loss = report["loss"]
    assert (before["perplexity"], after["perplexity"]) == (loss["reference_perplexity"], loss["perplexity"])
    held_out = TEXT[len(TEXT) * 3 // 4 - 20 :]
    with LLM(out, pack=False) as llm, LLM(model, pack=False) as reference:
        tokens = llm.tokenizer.encode(held_out)
        found = perplexity(llm, held_out, reference=reference, window=loss["window"])
        assert loss["window"] <= len(tokens)
    assert found["kl_mean"] == pytest.approx(loss["kl_mean"], rel=0.2)
    assert loss["kl_mean"] > 1e-3


def test_the_layer_with_least_influence_is_the_one_that_does_least(tmp_path: Path) -> None:
    """A layer whose outputs are nothing is found, and without it nothing changes."""
    model = write_model(tmp_path / "m.gguf", dim=64, ffn=64, layers=3, quant="F32", std=0.15, context=256)
    file, data = _core.GgufFile(model), bytearray(model.read_bytes())
    for tensor in file.tensors:
        if tensor.name in ("blk.1.attn_output.weight", "blk.1.ffn_down.weight"):
            data[tensor.offset : tensor.offset + tensor.n_bytes] = bytes(tensor.n_bytes)
    model.write_bytes(data)
    (tmp_path / "text.txt").write_text(TEXT)
    done = run(model, tmp_path / "out.gguf", "--layers", 1, "--calibrate", "TEXT", "--json")
    report = json.loads(done.stdout)
    assert report["removed"]["layers"] == [1]
    assert report["loss"]["kl_max"] < 1e-9


def test_without_tokens_of_others_nothing_is_lost(model: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out.gguf", tmp_path / "other.txt"
    other.write_text("Quick foxes and lazy dogs jumped over hedges that nobody had ever counted before. " * 6)
    done = run(model, out, "--vocab", "TEXT", "--measure", other, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert 0 < report["removed"]["tokens"] == 320 - report["after"]["vocabulary"]
    assert report["loss"]["kl_max"] < 1e-9  # over the tokens that are left
    assert report["before"]["bits_per_byte"] != report["after"]["bits_per_byte"]


def test_max_loss_is_kept_and_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    options = ["--ffn", "75%", "--layers", 3, "--calibrate", "TEXT", "--windows", 1, "--json"]
    most = json.loads(run(model, out, *options).stdout)["loss"]["kl_mean"]
    assert "pyllm.prune.max_loss" not in _core.GgufFile(out)
    done = run(model, out, *options, "--loss", "kl", "--max-loss", f"{most / 2:.6f}")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert 0 < report["loss"]["kl_mean"] <= most / 2
    assert 0 < report["removed"]["ffn"] < 96
    trail = report["search"]
    last = [t for t in trail if t["held_out"] and t["loss"] <= most / 2][-1]
    assert last["ffn"] == report["removed"]["ffn"]
    assert last["loss"] == pytest.approx(report["loss"]["kl_mean"])
    assert {t["loss"] <= most / 2 for t in trail} == {True, False}
    file = _core.GgufFile(out)
    assert file.get("pyllm.prune.ffn") == f"128 to {report['after']['ffn']}"
    assert file.get("pyllm.prune.loss") == f"{last['loss']:.4g} nats"
    out.unlink()
    done = run(model, out, *options, "--loss", "kl", "--max-loss", "0.000001")
    assert done.exit_code == 1
    assert "even the least part of these amounts loses more" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 2, "nothing to take out"),
        (["--layers", 1], 2, "need --calibrate FILE"),
        (["--layers", -1], 2, "-1"),
        (["--ffn", "100%", "--calibrate", "TEXT"], 2, "--ffn '100%': expected a share"),
        (["--sparsity", "4:2", "--calibrate", "TEXT"], 2, "--sparsity '4:2': expected a share such as 50%"),
        (
            ["--layers", 1, "--calibrate", "TEXT", "--max-loss", "much"],
            2,
            "'much': expected a share such as 1%",
        ),
        (["--vocab", "TEXT", "--max-loss", "5%"], 2, "--max-loss: give the most that may go"),
        (["--layers", 4, "--calibrate", "TEXT"], 1, "--layers 4: the model has 4"),
        (["--vocab", "SHORT"], 1, "too short to tell anything"),
    ],
)
def test_wrong_use(model: Path, tmp_path: Path, options: list[object], code: int, said: str) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    given = [str(short) if option == "SHORT" else option for option in options]
    done = run(model, tmp_path / "out.gguf", *given)
    assert done.exit_code == code
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == [short]


def test_the_input_is_never_the_output(model: Path) -> None:
    before = model.read_bytes()
    assert "is the input itself" in run(model, model, "--vocab", "TEXT").stderr
    assert model.read_bytes() == before


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_the_same(case: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from engines import LlamaCpp

    engine = LlamaCpp(pruned(case, tmp_path / "out.gguf"), context=64, float_cache=True)
    found, expected = engine.logits(golden(case)["tokens"].tolist()), golden(case)["logits"]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
