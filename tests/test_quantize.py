"""pyllm quantize: types of every tensor, what is kept, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf.constants import GGUFValueType
from gguf_files import types, weights

from pyllm import _core
from pyllm.cli.app import app
from pyllm.errors import PyllmError
from pyllm.files import new_file
from pyllm.gguf_writer import Tensor, Value, write_gguf
from pyllm.mixes import MIXES, Facts, mix_named, mixed_type
from pyllm.quantize.importance import read_importance
from pyllm.quantize.plan import Override, is_quantized, make_plan
from pyllm.quantize.quantize import quantize
from pyllm.shapes import write_model
from pyllm.weights import GgufSource


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder / "f32.gguf", dim=256, ffn=512, layers=8, quant="F32", tied=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_a_mix_in_a_file(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "q4.gguf"
    done = run(model, out, "--type", "Q4_K_M", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["bytes_before"] == model.stat().st_size
    assert document["bytes_after"] == out.stat().st_size
    assert sum(group["tensors"] for group in document["tensors"]) == len(types(model))
    found, before = types(out), gguf.GGUFReader(model)
    assert list(found) == list(types(model))
    assert found["output.weight"] == found["blk.0.ffn_down.weight"] == "Q6_K"
    assert found["token_embd.weight"] == found["blk.1.ffn_down.weight"] == "Q4_K"
    assert found["blk.3.ffn_norm.weight"] == "F32"
    after = gguf.GGUFReader(out)
    assert after.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert after.fields["general.quantization_version"].contents() == 2
    for key, field in before.fields.items():
        if not key.startswith(("GGUF.", "general.file_type")):
            assert after.fields[key].types == field.types, key
            assert after.fields[key].contents() == field.contents(), key
    for name, kind in found.items():
        x, y = weights(model, name), weights(out, name)
        assert np.array_equal(x, y) if kind == "F32" else np.abs(x - y).std() < 0.1 * x.std()


def test_q8_0_takes_eight_and_a_half_bits(model: Path, tmp_path: Path) -> None:
    done = run(model, tmp_path / "q8.gguf", "--type", "q8_0")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split()[:2] == ["F32", "Q8_0"]
    assert done.stdout.splitlines()[1].split()[-1] == "8.50"


def test_tensors_pure_and_what_stays(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    options = ["--type", "q4_k_m", "--pure", "--tensor", "ffn_(up|gate)=q5_k", "--tensor", "ffn=iq4_xs"]
    assert run(model, out, *options).exit_code == 0
    found = types(out)
    assert {found[f"blk.{i}.ffn_up.weight"] for i in range(8)} == {"Q5_K"}
    assert {found[f"blk.{i}.ffn_down.weight"] for i in range(8)} == {"IQ4_XS"}
    assert found["output.weight"] == found["blk.0.attn_v.weight"] == "Q4_K"
    assert {kind for name, kind in found.items() if "norm" in name} == {"F32"}


def test_the_same_type_is_copied_and_another_adds_to_the_loss(model: Path, tmp_path: Path) -> None:
    once, again, other = (tmp_path / f"{name}.gguf" for name in ("once", "again", "other"))
    quantize(model, once, "iq4_xs")
    assert quantize(once, again, "iq4_xs").notes == []
    assert once.read_bytes() == again.read_bytes()
    done = run(again, other, "--type", "q4_0")
    assert "the input is quantized already (IQ4_XS" in done.stderr
    assert "quantized already" not in run(again, other, "--type", "f16").stderr


def test_slices_and_threads_do_not_matter(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sliced = tmp_path / "whole.gguf", tmp_path / "sliced.gguf"
    quantize(model, whole, "q5_k_m", threads=1)
    monkeypatch.setattr("pyllm.quantize.quantize.SLICE", 1000)
    quantize(model, sliced, "q5_k_m", threads=2)
    assert whole.read_bytes() == sliced.read_bytes()


def test_narrow_rows_get_the_next_type(tmp_path: Path) -> None:
    narrow = write_model(tmp_path / "narrow.gguf", dim=96, heads=3, kv_heads=1, ffn=160, quant="F16")
    done = quantize(narrow, tmp_path / "out.gguf", "q4_k_m")
    assert set(types(tmp_path / "out.gguf").values()) == {"F32", "Q5_0", "Q8_0"}
    assert any("Q5_0 for Q4_K" in note for note in done.notes)


def experts(path: Path, bad: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"blk.0.ffn_up_exps.weight": (3, 4, 256), "blk.0.ffn_gate_inp.weight": (3, 256)}
    shapes |= {"blk.0.ffn_norm.weight": (256,), "token_embd.weight": (8, 256), "blk.0.attn_q.bias": (2, 256)}
    data = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    data["blk.0.ffn_up_exps.weight"][2, 1, 7] += bad
    kind = gguf.GGMLQuantizationType.F32

    def piece(name: str) -> Callable[[], list[np.ndarray]]:
        return lambda: [data[name]]

    tensors = [Tensor(name, shape, kind, piece(name)) for name, shape in shapes.items()]
    write_gguf(path, "llama", {"llama.block_count": Value(1, GGUFValueType.UINT32)}, tensors)
    return path


def test_experts_are_quantized_with_their_own_importance_and_routers_are_not(tmp_path: Path) -> None:
    model, out = experts(tmp_path / "experts.gguf"), tmp_path / "out.gguf"
    name = "blk.0.ffn_up_exps.weight"
    importance = np.random.default_rng(1).gamma(0.5, 1, (3, 256)).astype(np.float32)
    quantize(
        model, out, "mxfp4_moe", overrides=[Override.parse("exps=q3_k")], importance={name: importance.ravel()}
    )
    assert types(out) == types(model) | {name: "Q3_K", "token_embd.weight": "Q8_0"}
    for expert in range(3):
        x = weights(model, name)[expert]
        alone = _core.quantize("Q3_K", "F32", np.ascontiguousarray(x), 256, importance[expert])
        assert np.array_equal(
            _core.dequantize("Q3_K", alone, x.size).reshape(x.shape), weights(out, name)[expert]
        )
    quantize(model, out, "mxfp4_moe")
    assert types(out)[name] == "MXFP4"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("mix", ["q4_k_m", "f32"])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, bad: float, mix: str) -> None:
    model, out = experts(tmp_path / "bad.gguf", bad), tmp_path / "out.gguf"
    done = run(model, out, "--type", mix)
    assert done.exit_code == 1
    assert f"blk.0.ffn_up_exps.weight: the weight in row 9, column 7 is {bad}" in done.stderr
    assert not out.exists()
    assert run(model, out, "--type", mix, "--repair").exit_code == 0
    assert np.isfinite(weights(out, "blk.0.ffn_up_exps.weight")).all()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--type", "q4_x"], 2, "unknown type 'q4_x': expected one of f32, f16"),
        (["--type", "q4_k_m", "--tensor", "ffn_down"], 2, "expected PATTERN=TYPE"),
        (["--type", "q4_k_m", "--tensor", "ffn_down=q4_k_m"], 2, "unknown type 'q4_k_m'"),
        (["--type", "q4_k_m", "--tensor", "(=q4_k"], 2, "is no regular expression"),
        (
            ["--type", "q4_k_m", "--tensor", "ffn_down=q4_k", "--tensor", "ffn_dwn=q6_k"],
            1,
            "'ffn_dwn' is in no",
        ),
    ],
)
def test_wrong_use(model: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = run(model, tmp_path / "out.gguf", *arguments)
    assert done.exit_code == code
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_never_the_output(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    link = tmp_path / "link.gguf"
    link.hardlink_to(model)
    for target in (model, link):
        assert "is the input itself" in run(model, target, "--type", "q8_0").stderr
    assert "is a folder" in run(model, tmp_path, "--type", "q8_0").stderr
    assert "there is no folder" in run(model, tmp_path / "a" / "b.gguf", "--type", "q8_0").stderr
    assert model.read_bytes() == before


def test_a_full_disk_leaves_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyllm.quantize.quantize._core.quantize", full)
    with pytest.raises(PyllmError, match="no space left on the disk"):
        quantize(model, out, "q8_0")
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    with pytest.raises(PyllmError, match=r"needs .* MB, 10 kB are free on that disk"):
        quantize(model, out, "q8_0")
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == b"old"


def dies(job: Callable[[], object]) -> int:
    """The signal that a child process dies of while it does `job`, or 0."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        job()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and file size limits")
def test_killed_at_any_moment_the_target_is_old_or_new(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", dim=64, layers=1, ffn=64, quant="F16")
    out = tmp_path / "out.gguf"

    def job() -> object:
        return quantize(model, out, "q8_0", threads=1)

    job()
    new = out.read_bytes()
    out.write_bytes(b"old")
    for limit in [*range(0, len(new), len(new) // 40), len(new) - 1]:

        def until(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            job()

        assert dies(until) == signal.SIGXFSZ
        assert out.read_bytes() == b"old"
    for step in ("fsync", "replace"):

        def killed(step: str = step) -> None:
            setattr(os, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            job()

        assert dies(killed) == signal.SIGKILL
        assert out.read_bytes() == b"old"
    left = list(tmp_path.glob(".out.gguf.*.partial"))
    assert left
    assert dies(job) == 0
    assert out.read_bytes() == new
    assert not list(tmp_path.glob(".*"))  # what the killed ones left is gone


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a[1].bin"
    with new_file(path) as first:
        first.write(b"first")
        stale = tmp_path / ".a[1].bin.01234567.partial"
        stale.write_bytes(b"stale")
        other = tmp_path / ".a1.bin.01234567.partial"
        other.write_bytes(b"of another file")
        with new_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        assert not stale.exists()
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_nothing_of_the_process_reaches_the_file(model: Path, tmp_path: Path) -> None:
    """What is between and inside tensors is the same for whatever lay in memory before."""
    outputs = []
    for canary in (b"\xa5", b"\x5a"):
        memory = [canary * size for size in (1 << 12, 1 << 16, 1 << 20, 1 << 22)]
        del memory
        out = tmp_path / canary.hex()
        quantize(model, out, "q3_k_m")
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    end = 0
    for tensor in sorted(_core.GgufFile(out).tensors, key=lambda t: t.offset):
        assert not any(outputs[0][end : tensor.offset]) or end == 0
        end = tensor.offset + tensor.n_bytes
    assert not any(outputs[0][end:])


def test_a_cut_input_is_refused(model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-5000])
    done = run(cut, tmp_path / "out.gguf", "--type", "q8_0")
    assert done.exit_code == 1
    assert "cut.gguf" in done.stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", MIXES)
def test_every_mix_can_be_written(model: Path, name: str) -> None:
    source = GgufSource(model)
    mix = mix_named(name)
    plan = make_plan(source, source.metadata(), mix)
    chosen = {t.type for t, info in zip(plan, source.tensors, strict=True) if is_quantized(info)}
    assert chosen <= set(_core.written_types())
    assert mix.base in chosen


@pytest.mark.parametrize("mix", ["q4_k_m", "iq2_s", "q8_0"])
def test_llama_cpp_loads_them(model: Path, tmp_path: Path, mix: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    out = tmp_path / "out.gguf"
    quantize(model, out, mix)
    llm = llama_cpp.Llama(str(out), n_ctx=64, n_threads=2, verbose=False, logits_all=True)
    llm.eval(llm.tokenize(b"the other", add_bos=False))
    assert np.isfinite(np.array(llm.scores[: llm.n_tokens])).all()


def inspected(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_inspect_shows_ranges_and_errors(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyllm.quantize.inspect.SLICE", 4096)
    out = tmp_path / "q4.gguf"
    quantize(model, out, "q4_k_m")
    tensors = json.loads(inspected(model, out, "--json").stdout)["tensors"]
    assert [t["name"] for t in tensors] == list(types(model))
    for tensor in tensors:
        x, y = weights(model, tensor["name"]).astype(float), weights(out, tensor["name"])
        assert (tensor["low"], tensor["high"], tensor["bad"]) == (x.min(), x.max(), 0)
        assert tensor["deviation"] == pytest.approx(x.std())
        assert tensor["other"]["type"] == types(out)[tensor["name"]]
        error = np.sqrt(((x - y) ** 2).mean() / (x**2).mean())
        assert tensor["other"]["error"] == pytest.approx(error)
        assert tensor["other"]["largest_error"] == pytest.approx(np.abs(x - y).max())
    shown = inspected(model, out, "--tensor", "blk.1.ffn_down")
    assert shown.stdout.splitlines()[1].split()[:2] == ["blk.1.ffn_down.weight", "F32"]
    assert len(shown.stdout.splitlines()) == 2


def test_inspect_counts_bad_weights_and_refuses_other_models(model: Path, tmp_path: Path) -> None:
    bad = experts(tmp_path / "bad.gguf", np.nan)
    assert "NOT FINITE" in inspected(bad).stdout
    other = inspected(model, bad)
    assert other.exit_code == 1
    assert "not two files of one model" in other.stderr


def importance_file(path: Path, sums: dict[str, np.ndarray], counts: list[float]) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values.astype(np.float32))
        writer.add_tensor(f"{name}.counts", np.array(counts, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_importance_matrix_moves_the_error(model: Path, tmp_path: Path) -> None:
    name, plain, better = "blk.0.attn_q.weight", tmp_path / "plain.gguf", tmp_path / "better.gguf"
    mean = np.random.default_rng(1).gamma(0.5, 1, 256) + 1e-3
    file = importance_file(tmp_path / "imatrix.gguf", {name: 8 * mean[None]}, [8])
    assert run(model, plain, "--type", "q3_k_s").exit_code == 0
    done = run(model, better, "--type", "q3_k_s", "--importance", file)
    assert done.exit_code == 0, done.output
    assert "matrices have no importance" in done.stderr
    x = weights(model, name)
    errors = [float((mean * (x - weights(path, name)) ** 2).mean()) for path in (plain, better)]
    assert errors[1] < 0.95 * errors[0]


def test_experts_without_inputs_count_evenly(tmp_path: Path) -> None:
    sums = np.array([[4.0, 8.0], [0.0, 0.0]])
    found = read_importance(importance_file(tmp_path / "i.gguf", {"x.weight": sums}, [4, 0]))
    assert found["x.weight"].tolist() == [1, 2, 1, 1]


def legacy(*entries: tuple[bytes, int, list[float]], count: int | None = None) -> bytes:
    """llama.cpp's imatrix file of before GGUF."""
    data = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, sums in entries:
        data += struct.pack("<i", len(name)) + name
        data += struct.pack(f"<ii{len(sums)}f", calls, len(sums), *sums)
    return data + struct.pack("<i", 7) + struct.pack("<i", 4) + b"text"  # chunks and the text's name


def test_the_older_form_means_the_same(model: Path, tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    sums = np.random.default_rng(1).gamma(0.5, 1, 256).astype(np.float32)
    old = tmp_path / "imatrix.dat"
    old.write_bytes(legacy((name.encode(), 4, sums.tolist()), (b"none", 0, [0.0] * 32)))
    new = importance_file(tmp_path / "imatrix.gguf", {name: sums[None]}, [4])
    found = read_importance(old)
    np.testing.assert_array_equal(found[name], read_importance(new)[name])
    assert found["none"].tolist() == [1.0] * 32
    outs = []
    for path in (old, new):
        assert run(model, tmp_path / "out.gguf", "--type", "q3_k_s", "--importance", path).exit_code == 0
        outs.append((tmp_path / "out.gguf").read_bytes())
    assert outs[0] == outs[1]


ENTRY = (b"x", 1, [1.0, 2.0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends too early"),
        (legacy(ENTRY)[:20], "ends too early"),
        (legacy(ENTRY, count=0), "a count or length of 0"),
        (legacy(ENTRY, count=-1), "a count or length of -1"),
        (legacy(ENTRY, count=1 << 30), "a count or length of"),
        (legacy(ENTRY, count=5), "ends too early"),
        (struct.pack("<ii", 1, 1 << 30), "a count or length of"),
        (struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 1 << 28), "ends too early"),
        (legacy((b"\xff", 1, [1.0])), "a name is no text"),
        (legacy(ENTRY, ENTRY), "'x' is there twice"),
        (legacy((b"x", 1, [float("nan")])), "not finite"),
        (legacy((b"x", 1, [-1.0])), "negative"),
        (legacy((b"x", -1, [1.0])), "negative"),
    ],
)
def test_older_files_that_mean_harm(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(PyllmError, match=rf"imatrix\.dat: not an importance matrix, .*{said}"):
        read_importance(path)


def test_importance_of_another_model_or_none(model: Path, tmp_path: Path) -> None:
    other = importance_file(tmp_path / "i.gguf", {"blk.0.attn_q.weight": np.ones((1, 99))}, [1])
    done = run(model, tmp_path / "out.gguf", "--type", "q4_k_m", "--importance", other)
    assert done.exit_code == 1
    assert "blk.0.attn_q.weight: 99 columns have an importance, the matrix has 256" in done.stderr
    done = run(model, tmp_path / "out.gguf", "--type", "q4_k_m", "--importance", model)
    assert "not an importance matrix" in done.stderr
    bad = importance_file(tmp_path / "b.gguf", {"blk.0.attn_q.weight": np.full((1, 256), np.nan)}, [1])
    assert "do not fit together" in run(model, tmp_path / "o", "--type", "q8_0", "--importance", bad).stderr


def test_tensors_that_are_no_weights_are_copied(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1)
    table = np.arange(64, dtype=np.int32).reshape(2, 32)
    writer.add_tensor("table.weight", table)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "q8_0")
    file = _core.GgufFile(tmp_path / "out.gguf")
    assert types(tmp_path / "out.gguf") == {"table.weight": "I32", "token_embd.weight": "Q8_0"}
    assert file.tensor_data("table.weight").tobytes() == table.tobytes()


@pytest.mark.parametrize("key", ["general.architecture", "llama.block_count", None])
def test_files_that_do_not_say_what_is_needed(tmp_path: Path, key: str | None) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1)
    if key:
        writer.kv_data[0].pop(key)
        writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(PyllmError, match=key or "no tensors"):
        quantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "q8_0")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("mix", "name", "dense", "experts"),
    [
        ("q4_k_m", "blk.2.attn_v", "Q4_K", "Q8_0"),
        ("q4_k_m", "blk.3.attn_output", "Q4_K", "Q5_K"),
        ("q3_k_l", "blk.3.attn_output", "Q5_K", "Q3_K"),
        ("iq3_m", "blk.3.ffn_down_exps", "IQ3_S", "Q4_K"),
        ("iq2_xxs", "blk.3.attn_k", "IQ2_XXS", "Q4_K"),
        ("q6_k", "blk.3.attn_output", "Q6_K", "Q6_K"),
    ],
)
def test_beside_eight_experts_attention_keeps_more(mix: str, name: str, dense: str, experts: str) -> None:
    """As llama.cpp chooses, found by a dry run of its quantizer."""
    for count, expected in ((0, dense), (8, experts)):
        facts = Facts(layers=8, group=4, tied=False, experts=count)
        assert mixed_type(MIXES[mix], f"{name}.weight", facts) == expected
