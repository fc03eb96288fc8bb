"""Plans: pure functions of sizes; and the commands that show and use them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyllm
from pyllm import _core
from pyllm.devices import Device
from pyllm.errors import PyllmError
from pyllm.needs import Needs, Size
from pyllm.plan import CPU, MARGIN, Demand, Plan, make_plan, plan_model
from pyllm.shapes import PRESETS, write_model, write_shape

ROOT = Path(pyllm.__file__).parents[1]
GB = 10**9
LLAMA_8B = Needs(  # about as Q4_K_M
    context_length=131072,
    vocab=128256,
    layers=(Size(130 * 10**6, 140 * 10**6, 135 * 10**6),) * 32,
    embedding=Size(295 * 10**6, 295 * 10**6, 295 * 10**6),
    head=Size(430 * 10**6, 440 * 10**6, 435 * 10**6),
    kv_block=(65536,) * 32,
    row_floats=100_000,
)


def gpu(total: float, free: float | None = None) -> Device:
    return Device(2, "GPU", int(total * GB), int((total if free is None else free) * GB))


def made(device: Device | None, demand: Demand | None = None, host: float = 64, **options: Any) -> Plan:
    return make_plan(LLAMA_8B, int(host * GB), device, demand or Demand(), **options)


def on_device(plan: Plan) -> int:
    """Bytes that the plan takes on the GPU."""
    return sum(place.weights + place.kv for place in plan.places if place.device)


def test_without_a_gpu_everything_is_on_the_cpu() -> None:
    plan = made(None)
    assert plan.layer_devices == (CPU,) * 32
    assert (plan.embedding_device, plan.head_device, plan.reserve) == (CPU, CPU, 0)
    assert plan.describe() == "cpu"
    assert plan.places[0].weights == 32 * 140 * 10**6 + (440 + 295) * 10**6
    assert plan.places[0].read == 32 * 130 * 10**6 + 430 * 10**6
    assert not plan.problem


def test_a_large_gpu_takes_everything() -> None:
    plan = made(gpu(80))
    assert plan.layer_devices == (2,) * 32
    assert (plan.embedding_device, plan.head_device) == (2, 2)
    assert [str(place) for place in plan.places] == ["cuda:2"]
    assert plan.longest_context == plan.context == 131072
    assert plan.sequences == 2
    assert plan.kv_tokens == 16 * ((80 * GB - plan.reserve - plan.places[0].weights) // (32 * 65536) // 2)


def test_the_last_layers_and_the_head_go_first() -> None:
    plan = made(gpu(4))
    count = plan.gpu_layers
    assert 0 < count < 32
    assert plan.layer_devices == (CPU,) * (32 - count) + (2,) * count
    assert (plan.embedding_device, plan.head_device) == (CPU, 2)
    assert plan.places[0].layers == tuple(range(32 - count))
    one_more = 135 * 10**6 + 256 * 65536
    assert 4 * GB - plan.reserve - 435 * 10**6 - count * one_more < one_more


def test_a_head_that_leaves_no_room_for_a_layer_stays_on_the_cpu() -> None:
    reserve = made(gpu(4)).reserve - 4 * GB // MARGIN
    plan = made(Device(2, "GPU", GB, reserve + GB // MARGIN + 400 * 10**6))
    assert (plan.gpu_layers, plan.head_device) == (2, CPU)


def test_a_wanted_context_takes_room_from_layers() -> None:
    counts = [made(gpu(8), Demand(context=context)).gpu_layers for context in (4096, 32768, 131072)]
    assert counts[0] == 32
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    assert made(gpu(8), Demand(context=131072), host=640).longest_context == 131072


def test_layers_by_number() -> None:
    assert made(gpu(80), Demand(gpu_layers=5)).gpu_layers == 5
    assert made(gpu(80), Demand(gpu_layers=5)).head_device == 2
    assert made(gpu(80), Demand(gpu_layers=500)).gpu_layers == 32
    assert made(gpu(80), Demand(gpu_layers=0)).describe() == "cpu"
    with pytest.raises(
        PyllmError, match=r"20 of 32 layers need 2.7 GB for weights, 336 MB .* 2 GB of 2 GB are"
    ):
        made(gpu(2), Demand(gpu_layers=20))
    assert made(gpu(0.3)).describe() == "cpu"
    with pytest.raises(PyllmError, match="1 of 32 layers need"):
        made(gpu(0.3), must_use_device=True)


def test_weights_that_the_gpu_cannot_multiply_stay_on_the_cpu() -> None:
    layers = [*LLAMA_8B.layers]
    layers[20] = Size(1, 1, None)
    needs = Needs(**{**vars(LLAMA_8B), "layers": tuple(layers)})
    assert make_plan(needs, 64 * GB, gpu(80), Demand()).layer_devices == (CPU,) * 21 + (2,) * 11
    with pytest.raises(PyllmError, match=r"blk\.20: its weights have a type that the GPU cannot multiply"):
        make_plan(needs, 64 * GB, gpu(80), Demand(gpu_layers=12))


def test_what_does_not_fit_on_the_cpu() -> None:
    problem = made(None, host=4).problem
    assert "the weights on the CPU take 5.21 GB, and 4 GB of memory are available" in problem
    assert "--no-pack" in problem
    assert made(None, Demand(pack=False), host=4).problem == ""
    assert "kv_bytes: expected at least" in made(None, Demand(kv_bytes=100)).problem
    assert made(None, host=0).problem == ""  # the system does not tell
    with pytest.raises(PyllmError, match="context: expected 1 to 131072"):
        made(None, Demand(context=131073))


def test_no_plan_takes_more_than_there_is() -> None:
    source = random.Random(5)
    for _ in range(500):
        total = source.uniform(0.1, 30)
        device = gpu(total, source.uniform(0, total))
        demand = Demand(
            context=source.choice([0, 1, 5000, 131072]),
            max_batch_tokens=source.choice([64, 512, 2048]),
            max_sequences=source.choice([0, 1, 300]),
        )
        plan = made(device, demand)
        assert len(plan.layer_devices) == 32
        assert sorted(i for place in plan.places for i in place.layers) == list(range(32))
        assert on_device(plan) + (plan.reserve if plan.uses_device else 0) <= device.free_bytes
        more = made(Device(2, "GPU", device.total_bytes, device.free_bytes + GB), demand)
        assert more.gpu_layers >= plan.gpu_layers
        assert plan.context <= plan.longest_context or plan.problem


@pytest.mark.parametrize("shape", ["smollm2-135m", "gemma3-270m"])
def test_needs_are_those_of_the_loaded_model(shape: str, tmp_path: Path) -> None:
    from dataclasses import replace

    path = write_shape(tmp_path / "m.gguf", replace(PRESETS[shape], vocab=512, layers=3), "q4_k_m")
    file = _core.GgufFile(path)
    for kv_type in ("f16", "q8_q4"):
        needs = Needs.of(file, kv_type)
        model = _core.Model(file, threads=1, kv_type=kv_type)
        assert needs.kv_block == (model.kv_block_bytes // 3,) * 3
        assert (needs.vocab, needs.context_length) == (model.vocab, model.context_length)
    assert sum(size.file for size in (*needs.layers, needs.head)) == sum(t.n_bytes for t in file.tensors)
    packed = _core.PackedWeights()
    _core.Model(file, threads=1, packed=packed)
    in_pieces = sum(len(memoryview(piece)) for piece in packed.pieces)
    norms = sum(4 * t.shape[0] for t in file.tensors if len(t.shape) == 1)
    assert sum(size.host for size in (*needs.layers, needs.head)) == in_pieces + norms


@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "attention.key_length"])
@pytest.mark.parametrize(
    "value",
    [0, -1, 1 << 31, 1.5, "many", True, [], [2], [2, 0], [2, 2], [2, 2, 2], ["a", "b"], [1.5, float("nan")]],
)
def test_strange_metadata_is_a_clear_error_or_a_plan(key: str, value: Any, tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "m.gguf", dim=64, ffn=64, quant="Q8_0", **({key: value} if value != [] else {})
    )
    try:
        problem = ""
        assert len(plan_model(_core.GgufFile(path), "cpu", Demand()).layer_devices) == 2
    except PyllmError as error:
        problem = str(error)
    assert not problem or key in problem or "no such heads" in problem


# -- commands --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_model(path, dim=256, layers=6, ffn=512, quant="Q4_K", context=512)


def run(tmp_path: Path, devices: list[dict[str, Any]] | None, *arguments: Any) -> tuple[int, str, str]:
    """A pyllm command; `devices`: that its process finds."""
    env = {**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    if devices is not None:
        fake = Path(__file__).parent / "fake_device"
        env |= {"PYTHONPATH": f"{fake}{os.pathsep}{ROOT}", "FAKE_DEVICES": json.dumps(devices)}
    command = [sys.executable, "-m", "pyllm", *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


SMALL = [{"name": "Fake GPU", "total_bytes": 11_500_000}]


def test_plan_command(tmp_path: Path, model: Path) -> None:
    code, out, err = run(tmp_path, SMALL, "plan", model, "--json", "--no-measure")
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about["fits"] is True
    assert about["device"].startswith("cuda:0: Fake GPU, ")
    assert [place["place"] for place in about["places"]] == ["cpu", "cuda:0"]
    assert sum(about["decode"]["bytes_per_token"].values()) > 0
    assert about["decode"]["tokens_per_second"] is None
    code, out, _ = run(tmp_path, SMALL, "plan", model, "--device", "cpu", "--context", 64)
    assert code == 0
    assert "layers 0 to 5 (6), embedding, head" in out
    assert "64 tokens, 64 sequences of that length at once" in out
    assert "tokens/s for one sequence" in out
    code, out, err = run(tmp_path, SMALL, "plan", model, "--gpu-layers", 6)
    assert (code, out) == (1, "")
    assert "6 of 6 layers need" in err
    code, out, err = run(tmp_path, [], "plan", model, "--kv-memory", "20", "--no-measure")
    assert code == 1
    assert "no: --kv-memory: expected at least" in out


def test_plan_reads_nothing_but_the_header(tmp_path: Path, model: Path) -> None:
    sparse = tmp_path / "sparse.gguf"
    data = model.read_bytes()
    with open(sparse, "wb") as file:
        file.write(data[: _core.GgufFile(model).tensors[0].offset])
        file.truncate(len(data))  # weights that no disk holds
    documents = [json.loads(run(tmp_path, [], "plan", p, "--json", "--no-measure")[1]) for p in (sparse, model)]
    assert documents[0]["places"][0]["weights_bytes"] == documents[1]["places"][0]["weights_bytes"]


def test_generate_on_a_device(tmp_path: Path, model: Path) -> None:
    options = ["generate", model, "-p", "Hi", "--max-tokens", 8, "--temperature", 0, "--ignore-eos", "--json"]
    tokens = []
    for more in (["--device", "cpu"], ["--device", "cuda"], ["--gpu-layers", "1"], []):
        code, out, err = run(tmp_path, SMALL, *options, *more)
        assert (code, err) == (0, "")
        tokens.append(json.loads(out)["token_ids"])
    assert tokens == [tokens[0]] * 4
    code, out, err = run(tmp_path, [], *options, "--device", "cuda")
    assert (code, out) == (1, "")
    assert "device cuda: there is no NVIDIA GPU" in err
    assert len(err.splitlines()) == 1
    assert run(tmp_path, [], *options, "--device", "tpu")[2].startswith(
        "pyllm: --device: expected auto, cpu, cuda"
    )


def test_bench_on_a_device(tmp_path: Path, model: Path) -> None:
    options = ["--prompt", 8, "--gen", 4, "--batch", 1, "--repeat", 1, "--only", "prompt,decode"]
    code, out, err = run(tmp_path, SMALL, "bench", model, *options, "--gpu-layers", 1, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["device"] == "cuda:0: Fake GPU, 1 of 6 layers"
    assert report["ceilings"] == {}  # those of the CPU are no measure of it
    assert all(result["of_ceiling"] == {} for result in report["results"])
    code, out, err = run(tmp_path, [], "bench", model, *options, "--device", "cuda")
    assert (code, out) == (1, "")
    assert "there is no NVIDIA GPU" in err


def test_doctor_tells_of_gpus(tmp_path: Path) -> None:
    two = [*SMALL, {"name": "Old GPU", "total_bytes": 10**9, "unusable": "its compute capability is 5.2"}]
    about = json.loads(run(tmp_path, two, "doctor", "--json")[1])["cuda"]
    assert (about["present"], about["used"], about["why"]) == (True, True, "")
    assert [device["name"] for device in about["devices"]] == ["Fake GPU", "Old GPU"]
    out = run(tmp_path, two, "doctor")[1]
    assert "cuda:0: Fake GPU, compute 9.0, 11.5 MB of 11.5 MB free, driver for CUDA 13.0; usable" in out
    assert "cuda:1: Old GPU" in out
    assert "not usable: its compute capability is 5.2" in out
    about = json.loads(run(tmp_path, two[1:], "doctor", "--json")[1])["cuda"]
    assert (about["used"], about["why"]) == (False, "cuda:0: its compute capability is 5.2")
    assert "none is used: there is no NVIDIA GPU" in run(tmp_path, [], "doctor")[1]
