"""Models on several backends: GPUs that are the CPU in disguise, whose tensors nobody else can read."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_architectures import CASES, GOLDEN, Logits, golden
from test_architectures import logits as cpu_logits

import pyllm
from pyllm import _core
from pyllm.devices import choose_device
from pyllm.errors import PyllmError
from pyllm.llm import LLM, SamplingParams
from pyllm.plan import Demand, plan_model
from pyllm.shapes import write_model

ROOT = Path(pyllm.__file__).parents[1]
GPU = {"name": "Fake GPU", "total_bytes": 64 << 20}
CPU = -1


@pytest.fixture(autouse=True)
def two_gpus() -> Iterator[None]:
    _core.testing.fake_devices([GPU, {**GPU, "name": "Another"}])
    yield
    _core.testing.fake_devices(None)


def place(case: str, layers: list[int], embedding: int = CPU, head: int = CPU, **options: Any) -> _core.Engine:
    file = _core.GgufFile(GOLDEN / f"{case}.gguf")
    where = {"layer_devices": layers, "embedding_device": embedding, "head_device": head}
    return _core.Engine(_core.Model(file, threads=2, **where), kv_bytes=2**22, **options)


def logits(engine: _core.Engine, *prompts: Any) -> list[Logits]:
    """Of each prompt, all of them at once."""
    rows: dict[int, list[Logits]] = {number: [] for number in range(len(prompts))}
    for number, tokens in enumerate(prompts):
        engine.submit(number, tokens, _core.SamplingParams(), want_logits=True)
    running = set(rows)
    while running:
        for event in engine.step(1.0):
            assert event.finish_reason != "error", event.detail
            if event.logits is not None:
                rows[event.id].append(event.logits)
            if event.finish_reason:
                running.remove(event.id)
    return [np.concatenate(parts) for parts in rows.values()]


# -- a split model computes the same ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_split_gives_the_same_bits(case: str) -> None:
    whole = cpu_logits(case, "")
    count = _core.layer_count(_core.GgufFile(GOLDEN / f"{case}.gguf"))
    for first in range(0, count + 1, max(1, count // 8)):
        last = count - first
        splits = [
            ([CPU] * first + [0] * last, CPU, 0),  # what --gpu-layers makes
            ([0] * first + [CPU] * last, 0, CPU),
            ([0] * first + [1] * last, 0, 1),  # the CPU has nothing
            ([1] * first + [0] * last, CPU, CPU),
        ]
        for layers, embedding, head in splits:
            assert np.array_equal(
                logits(place(case, layers, embedding, head), golden(case)["tokens"])[0], whole
            )


def test_layers_in_turns_on_three_backends() -> None:
    count = _core.layer_count(_core.GgufFile(GOLDEN / "gemma3.gguf"))
    engine = place("gemma3", [(CPU, 0, 1)[layer % 3] for layer in range(count)], 1, 0)
    assert np.array_equal(logits(engine, golden("gemma3")["tokens"])[0], cpu_logits("gemma3", ""))
    for layers in ([0, 1], [1, 0], [CPU, 1], [1, CPU]):
        found = logits(place("qwen3", layers, 1, 0), golden("qwen3")["tokens"])[0]
        assert np.array_equal(found, cpu_logits("qwen3", ""))


@pytest.mark.parametrize("case", ["llama", "gemma3", "qwen3"])
def test_a_split_model_is_batch_invariant(case: str) -> None:
    count = _core.layer_count(_core.GgufFile(GOLDEN / f"{case}.gguf"))
    layers = [CPU] * (count // 2) + [0] * (count - count // 2)
    tokens = golden(case)["tokens"]
    prompts = [tokens, tokens[3:], tokens[: len(tokens) // 2], tokens[::-1]]
    alone = [logits(place(case, layers, CPU, 0), prompt)[0] for prompt in prompts]
    for options in ({}, {"max_batch_tokens": 7}, {"prefix_cache": False}):
        for found, expected in zip(
            logits(place(case, layers, CPU, 0, **options), *prompts), alone, strict=True
        ):
            assert np.array_equal(found, expected)


def test_the_stream_crosses_a_border_once() -> None:
    tokens = golden("llama")["tokens"]

    def moved(layers: list[int], embedding: int, head: int) -> list[int]:
        """Rows that each GPU sent or received for one step with one row of logits."""
        before = [_core.testing.fake_device(i)["moved_rows"] for i in range(2)]
        engine = place("llama", layers, embedding, head)
        engine.submit(1, tokens, _core.SamplingParams(max_tokens=1, ignore_eos=True))
        assert engine.step(1.0)[0].finish_reason == "length"
        return [_core.testing.fake_device(i)["moved_rows"] - before[i] for i in range(2)]

    rows = len(tokens)
    assert moved([CPU, CPU], CPU, CPU) == [0, 0]
    assert moved([0, 0], 0, 0) == [1, 0]  # the logits
    assert moved([CPU, 0], CPU, 0) == [rows + 1, 0]
    assert moved([0, 1], CPU, 1) == [2 * rows, rows + 1]
    assert moved([0, CPU], CPU, CPU) == [2 * rows, 0]


def test_a_placement_of_another_length_is_refused() -> None:
    with pytest.raises(PyllmError, match="expected a backend for each of the model's 2 layers, got 3"):
        place("llama", [0, 0, 0])
    with pytest.raises(PyllmError, match="cuda:7: expected a device from 0 to 1"):
        place("llama", [0, 7])


# -- tokens chosen where the logits are ------------------------------------------------------------------------

CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn from all": {"temperature": 1.2, "seed": 1},
    "filtered": {"temperature": 0.9, "seed": 2, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
    "penalties": {
        "temperature": 0.0,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.4,
        "dry_multiplier": 1.0,
    },
    "bias": {"temperature": 1.0, "seed": 3, "logit_bias": {5: 3.0, 6: float("-inf")}, "logprobs": True},
}


def generated(engine: _core.Engine, requests: list[dict[str, Any]]) -> list[list[tuple[int, int, float]]]:
    """(stream, token, logprob) of each request, all of them at once."""
    found: list[list[tuple[int, int, float]]] = [[] for _ in requests]
    left = 0
    for number, params in enumerate(requests):
        tokens = golden("llama")["tokens"][number:]
        engine.submit(number, tokens, _core.SamplingParams(max_tokens=12, ignore_eos=True, **params))
        left += params.get("n", 1)
    while left:
        for event in engine.step(1.0):
            assert event.finish_reason != "error", event.detail
            found[event.id].append((event.index, event.token, round(event.logprob, 4)))
            left -= event.finish_reason is not None
    return found


def test_a_device_chooses_what_the_sampler_would() -> None:
    _core.testing.fake_devices([{**GPU, "chooses": True}, GPU])
    requests = list(CHOICES.values())
    on_cpu = generated(place("llama", [CPU, CPU]), requests)
    engine = place("llama", [0, 0], 0, 0)
    assert generated(engine, requests) == on_cpu
    device = _core.testing.fake_device(0)
    assert device["chosen_rows"] == 12 * len(requests)
    assert device["moved_rows"] == 0  # no logits came back


@pytest.mark.parametrize(
    "params",
    [{"logprobs": True, "top_logprobs": 2, "seed": 6}, {"n": 2, "seed": 4}, {"typical_p": 0.5, "seed": 5}],
)
def test_what_a_device_cannot_choose_is_sampled_on_the_host(params: dict[str, Any]) -> None:
    _core.testing.fake_devices([{**GPU, "chooses": True}])
    requests = [{"temperature": 1.0, **params}, {"temperature": 0.0}]
    on_cpu = generated(place("llama", [CPU, CPU]), requests)
    assert generated(place("llama", [0, 0], 0, 0), requests) == on_cpu
    device = _core.testing.fake_device(0)
    assert device["moved_rows"] > 0
    assert device["chosen_rows"] >= 12  # the neighbour's: which sampler a row has depends on itself alone


# -- memory ----------------------------------------------------------------------------------------------------


def used(number: int = 0) -> int:
    return int(_core.testing.fake_device(number)["used_bytes"])


def test_memory_that_runs_out_is_an_error_and_given_back() -> None:
    _core.testing.fake_devices([{**GPU, "total_bytes": 100_000}])
    with pytest.raises(PyllmError, match=r"cuda:0: out of memory: \d+ bytes asked for, \d+ are free"):
        place("llama", [0, 0], 0, 0)
    gc.collect()
    assert used() == 0


def test_the_pool_is_what_every_memory_holds() -> None:
    def blocks(*rooms: tuple[int, int, int, bool], kv_bytes: int = 0) -> int:
        return _core.kv_pool_blocks(list(rooms), 1600, 4, kv_bytes)

    assert blocks((10, 1_000_000, 0, True)) == 400  # 4 sequences of 100 blocks
    assert blocks((10, 1_200, 0, True)) == 100  # a device's own: one context may take all of it
    assert blocks((10, 900, 0, True)) == 90
    assert blocks((10, 3_000, 0, True)) == 150  # several take half
    assert blocks((10, 1_000, 0, False)) == 75  # the host's: three quarters for one context
    assert blocks((10, 1_000, 0, True), (10, 40_000, 0, False)) == 100
    assert blocks((10, 100_000, 0, True), (10, 1_000, 0, False)) == 75
    assert blocks((10, 100_000, 0, True), (10, 0, 0, False)) == 100  # unknown: one context
    assert blocks((30, 3_000, 0, True), (10, 1_000, 0, False), kv_bytes=400) == 10
    with pytest.raises(PyllmError, match="kv_bytes: 3000 are more than the 2999 bytes of the device's memory"):
        blocks((30, 2_999, 0, True), (10, 99_000, 0, False), kv_bytes=4_000)
    with pytest.raises(PyllmError, match=r"needs at least 30 bytes .* and 0 bytes of the device's memory"):
        blocks((30, -5, 0, True), (10, 99_000, 0, False))


# -- LLM -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_model(path, dim=256, layers=6, ffn=512, quant="Q4_K", context=512)


def answer(model: Path, **options: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Where the layers went, and the tokens of two answers."""
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    with LLM(model, threads=2, **options) as llm:
        done = llm.generate([[5, 6, 7], [9] * 40], params)
        return llm.device, [c.token_ids for c in done]


def test_llm_puts_as_many_layers_on_the_gpu_as_fit(model: Path) -> None:
    told, tokens = answer(model, device="cpu")
    assert told == "cpu"
    for device, expected in (("auto", "cuda:0: Fake GPU, 6 of"), ("cuda:1", "cuda:1: Another, 6 of")):
        assert answer(model, device=device) == (f"{expected} 6 layers", tokens)
    assert answer(model, gpu_layers=2) == ("cuda:0: Fake GPU, 2 of 6 layers", tokens)
    assert answer(model, gpu_layers=99)[0] == "cuda:0: Fake GPU, 6 of 6 layers"
    assert answer(model, gpu_layers=0, device="cuda") == ("cpu", tokens)
    _core.testing.fake_devices([{**GPU, "total_bytes": 11_500_000}])
    told, split = answer(model)
    assert 0 < int(told.split(", ")[1].split()[0]) < 6, told
    assert split == tokens
    gc.collect()
    assert used() == 0


@pytest.mark.parametrize("total", [30_000_000, 11_500_000])
@pytest.mark.parametrize("layers", [None, 1])
def test_the_engine_does_what_the_plan_says(model: Path, total: int, layers: int | None) -> None:
    _core.testing.fake_devices([{**GPU, "total_bytes": total}])
    plan = plan_model(_core.GgufFile(model), "cuda", Demand(layers))
    with LLM(model, threads=2, gpu_layers=layers) as llm:
        assert llm.device == plan.describe()
        assert llm.stats()["blocks_total"] * 16 == plan.kv_tokens
        assert llm.config.kv_bytes_per_token == plan.kv_bytes_per_token
        place = plan.places[-1]
        assert used() == place.weights + place.kv + 4 * 32  # rope's frequencies
        assert used() + plan.reserve <= total


def test_what_does_not_fit_says_the_numbers(model: Path) -> None:
    _core.testing.fake_devices([{**GPU, "total_bytes": 11_500_000}])
    numbers = (
        r"cuda:0 \(Fake GPU\): 6 of 6 layers need .* for weights, .* for keys and values and .* to compute; "
        r"11.5 MB of 11.5 MB are free, of which .* stay so. (\d) layers fit: --gpu-layers \1; less --context"
    )
    with pytest.raises(PyllmError, match=numbers):
        LLM(model, gpu_layers=6)
    _core.testing.fake_devices([{**GPU, "total_bytes": 1_000_000}])
    with pytest.raises(PyllmError, match=r"1 of 6 layers need .* 0 layers fit; less --context"):
        LLM(model, device="cuda")
    assert answer(model)[0] == "cpu"  # auto is content with that
    gc.collect()
    assert used() == 0


def test_devices_that_are_not_there() -> None:
    assert choose_device("cpu") is None
    chosen = choose_device("CUDA")
    assert chosen is not None
    assert (chosen.number, chosen.name) == (0, "Fake GPU")
    _core.testing.fake_devices([{**GPU, "unusable": "too old"}, {"name": "Small", "total_bytes": 5}, GPU])
    assert [str(choose_device(text)) for text in ("auto", "cuda", "cuda:1")] == ["cuda:2", "cuda:2", "cuda:1"]
    for text, why in [
        ("cuda:0", "device cuda:0: too old"),
        ("cuda:3", "device cuda:3: there is cuda:0, cuda:1, cuda:2"),
        ("gpu", "device: expected auto, cpu, cuda or cuda:N .* got 'gpu'"),
        ("cuda:-1", "device: expected"),
    ]:
        with pytest.raises(PyllmError, match=why):
            choose_device(text)
    _core.testing.fake_devices([{**GPU, "unusable": "too old"}])
    with pytest.raises(PyllmError, match="device cuda: cuda:0: too old"):
        choose_device("cuda")
    assert choose_device("auto") is None
    _core.testing.fake_devices(None, "the driver is too old")
    with pytest.raises(PyllmError, match="device cuda: the driver is too old"):
        choose_device("cuda")
    _core.testing.fake_devices([])
    with pytest.raises(PyllmError, match="device cuda:0: there is no NVIDIA GPU"):
        choose_device("cuda:0")


def test_options_that_exclude_each_other(model: Path) -> None:
    with pytest.raises(PyllmError, match="gpu_layers: 3 layers on a GPU and device cpu exclude each other"):
        LLM(model, device="cpu", gpu_layers=3)
    with pytest.raises(PyllmError, match="gpu_layers: expected a number of layers, 0 or more, got -1"):
        LLM(model, gpu_layers=-1)
    for options in ({"device": "cuda"}, {"gpu_layers": 2}):
        with pytest.raises(PyllmError, match="kv_type: a GPU keeps f16 or q8_0, got q4_0; the CPU has it"):
            LLM(model, kv_type="q4_0", **options)
    assert answer(model, kv_type="q4_0")[0] == "cpu"
    assert answer(model, kv_type="q8_0")[0] == "cuda:0: Fake GPU, 6 of 6 layers"
    _core.testing.fake_devices([])
    with pytest.raises(PyllmError, match="device cuda: there is no NVIDIA GPU"):
        LLM(model, gpu_layers=3)


# -- the library -----------------------------------------------------------------------------------------------

STUB = """
int pyllm_cuda_abi(void) { return ABI; }
#ifndef LITTLE
int pyllm_cuda_devices(void* out, int capacity, char* error, unsigned long size) {
  const char* why = "the driver (11.4) is too old for CUDA 13.0";
  for (unsigned long i = 0; i < size && (error[i] = why[i]); ++i) {}
  return -1;
}
long long pyllm_cuda_matrix_bytes(unsigned type, long long rows, long long cols) { return -1; }
void* pyllm_cuda_backend(int device, const void* options, char* error, unsigned long size) { return 0; }
#endif
"""


def why_none(library: Path) -> str:
    """As a new process tells it."""
    code = "from pyllm import _core; devices, why = _core.devices(); assert devices == []; print(why)"
    env = {**os.environ, "PYLLM_CUDA_LIBRARY": str(library), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return done.stdout


def test_a_library_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "PYLLM_CUDA_LIBRARY names" in why_none(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("not a library")
    assert "cannot be used" in why_none(tmp_path / "text.so")
    assert "it has no pyllm_cuda_abi" in why_none(Path(_core.__file__))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_libraries_of_other_versions_and_drivers(tmp_path: Path) -> None:
    (tmp_path / "stub.c").write_text(STUB)

    def built(name: str, *defines: str) -> Path:
        path = tmp_path / name
        subprocess.run(
            ["cc", "-shared", "-fPIC", *defines, str(tmp_path / "stub.c"), "-o", str(path)], check=True
        )
        return path

    header = (Path(__file__).parent.parent / "cpp/backend/cuda/entry.h").read_text()
    abi = int(header.split("kAbi = ")[1].split(";")[0])
    other = why_none(built("other.so", f"-DABI={abi + 1}"))
    assert f"another version of pyllm (interface {abi + 1}, expected {abi}); install pyllm again" in other
    assert "it has no pyllm_cuda_devices" in why_none(built("little.so", f"-DABI={abi}", "-DLITTLE"))
    assert why_none(built("old.so", f"-DABI={abi}")) == "the driver (11.4) is too old for CUDA 13.0\n"


def test_the_core_links_to_no_driver() -> None:
    needed = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True, check=False).stdout
    assert "libc" in needed
    assert "cuda" not in needed
    assert "nvidia" not in needed
