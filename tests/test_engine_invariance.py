"""Batch invariance: a request's logits are the same bits alone, among others, in any chunks, from the prefix
cache and after preemption. Tiny models with random weights of every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_driver import Answer, Driver

from pyllm import _core
from pyllm.shapes import write_model

VOCAB = 320
LENGTHS = [3, 16, 40, 97, 150, 260]
MODELS = {"llama": "Q4_K", "qwen2": "q4_k_m", "qwen3": "F16", "gemma3": "Q8_0"}
KV_TYPES = {"qwen2": "q8_0", "qwen3": "q4_0", "gemma3": "q6_q4"}  # the other: f16
Steps = list[tuple[int, float, list[tuple[int, float]]]]


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    return write_model(file, request.param, quant=MODELS[request.param], std=0.08, seed=3)


@pytest.fixture(scope="module")
def alone(path: Path) -> list[Steps]:
    """What each prompt gets with the engine to itself."""
    out = []
    for number in range(len(LENGTHS)):
        driver = open_engine(path, prefix_cache=False)
        submit(driver, 0, number)
        out.append(steps(driver.run()[0, 0]))
    return out


def open_engine(path: Path, blocks: int = 1500, **options: Any) -> Driver:
    model = _core.Model(_core.GgufFile(path), threads=2, kv_type=KV_TYPES.get(path.stem, "f16"))
    return Driver(_core.Engine(model, kv_bytes=blocks * model.kv_block_bytes, eos=[], **options))


def prompt(number: int) -> list[int]:
    return np.random.default_rng(number).integers(3, 259, LENGTHS[number]).tolist()


def submit(driver: Driver, id: int, number: int) -> None:
    # Every token's log-probability at every step: equal only where all logits are.
    driver.submit(id, prompt(number), max_tokens=40, logprobs=True, top_logprobs=VOCAB)


def steps(answer: Answer) -> Steps:
    assert answer.finish_reason == "length", answer.detail
    return [(token, *logprob) for token, logprob in zip(answer.tokens, answer.logprobs, strict=True)]


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 64, 512])
def test_in_chunks_and_after_prefix_hits(path: Path, alone: list[Steps], max_batch_tokens: int) -> None:
    driver = open_engine(path, max_batch_tokens=max_batch_tokens)
    for turn in range(2):
        for number in range(len(LENGTHS)):
            submit(driver, 10 * turn + number, number)
        answers = driver.run()
        for number, expected in enumerate(alone):
            assert steps(answers[10 * turn + number, 0]) == expected
    assert driver.answers[15, 0].cached_tokens == 256


@pytest.mark.parametrize("size", [2, 3, 8, 33, 64])
def test_in_a_batch(path: Path, alone: list[Steps], size: int) -> None:
    driver = open_engine(path)
    for id in range(size):
        submit(driver, id, (size + id) % len(LENGTHS))
    answers = driver.run()
    for id in range(size):
        assert steps(answers[id, 0]) == alone[(size + id) % len(LENGTHS)]


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_after_preemption(path: Path, alone: list[Steps], prefix_cache: bool) -> None:
    driver = open_engine(path, blocks=20, prefix_cache=prefix_cache)
    for id in range(12):
        submit(driver, id, id % len(LENGTHS))
    answers = driver.run()
    assert driver.engine.stats()["preemptions"] > 0
    for id in range(12):
        assert steps(answers[id, 0]) == alone[id % len(LENGTHS)]


def test_sequences_that_share_a_prefix(path: Path) -> None:
    """Decoded together, their queries over the shared chunks are computed together."""
    common = np.random.default_rng(9).integers(3, 259, 600).tolist()
    prompts = [common + prompt(id % 3)[:length] for id, length in enumerate([1, 30, 2, 9, 16, 3, 40, 1, 5, 7])]

    def ask(driver: Driver, id: int) -> None:
        driver.submit(id, prompts[id], max_tokens=20, logprobs=True, top_logprobs=VOCAB)

    driver = open_engine(path)
    ask(driver, 0)
    driver.run()  # its blocks stay in the prefix cache
    for id in range(1, len(prompts)):
        ask(driver, id)
    together = driver.run()
    assert all(together[id, 0].cached_tokens >= 592 for id in range(1, len(prompts)))
    for id in range(len(prompts)):
        alone = open_engine(path, prefix_cache=False)
        ask(alone, id)
        assert steps(alone.run()[id, 0]) == steps(together[id, 0])


def test_logits_of_a_prompt(path: Path) -> None:
    def logits(max_batch_tokens: int, others: int) -> npt.NDArray[np.float32]:
        driver = open_engine(path, max_batch_tokens=max_batch_tokens)
        for id in range(others):
            submit(driver, id, id)
        driver.submit(99, prompt(4), options={"want_logits": True})
        return np.concatenate(driver.run()[99, 0].logits)

    expected = logits(512, 0)
    assert expected.shape == (LENGTHS[4], VOCAB)
    for max_batch_tokens, others in [(1, 0), (7, 2), (64, 5), (512, 6)]:
        np.testing.assert_array_equal(logits(max_batch_tokens, others), expected)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings(path: Path, pooling: str) -> None:
    def ask(driver: Driver, id: int, number: int) -> None:
        driver.submit(id, prompt(number), options={"pooling": pooling})

    def vector(driver: Driver, id: int) -> npt.NDArray[np.float32]:
        answer = driver.answers[id, 0]
        assert answer.finish_reason == "stop", answer.detail
        assert answer.embedding is not None
        return answer.embedding

    expected = []
    for number in range(len(LENGTHS)):
        driver = open_engine(path, prefix_cache=False)
        ask(driver, 0, number)
        driver.run()
        expected.append(vector(driver, 0))
        assert abs(np.linalg.norm(expected[-1]) - 1) < 1e-6
    # The last: preemptions. Half of the neighbours generate, and every prompt comes twice.
    for blocks, max_batch_tokens in [(1500, 7), (1500, 512), (20, 64)]:
        driver = open_engine(path, blocks=blocks, max_batch_tokens=max_batch_tokens)
        for turn in range(2):
            for number in range(len(LENGTHS)):
                ask(driver, 100 + 10 * turn + number, number)
                submit(driver, 10 * turn + number, number)
            driver.run()
            for number in range(len(LENGTHS)):
                np.testing.assert_array_equal(vector(driver, 100 + 10 * turn + number), expected[number])
        assert (driver.engine.stats()["preemptions"] > 0) == (blocks == 20)
        if blocks == 1500:  # a mean needs every token, the last state only that one
            assert driver.answers[114, 0].cached_tokens == (0 if pooling == "mean" else 144)


def test_a_request_with_nan_weights_fails_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path / "nan.gguf", quant="F16", layers=2, seed=3)
    expected = open_engine(path, blocks=4)
    expected.submit(1, prompt(2), max_tokens=10)
    embedding = next(t for t in _core.GgufFile(path).tensors if t.name == "token_embd.weight")
    row_bytes = embedding.n_bytes // VOCAB
    with path.open("r+b") as file:
        file.seek(embedding.offset + 300 * row_bytes)
        file.write(np.full(row_bytes // 2, np.nan, np.float16).tobytes())
    # Four blocks: the second request gets those that the first has filled with NaN.
    driver = open_engine(path, blocks=4)
    driver.submit(0, [5, 300, *prompt(2)])
    for id in (1, 2):
        driver.submit(id, prompt(2), max_tokens=10)
    answers = driver.run()
    assert answers[0, 0].finish_reason == "error"
    assert "the model's logits hold nan" in answers[0, 0].detail.replace("-nan", "nan")
    driver.submit(3, [5, 300], options={"pooling": "mean"})
    driver.submit(4, [5, 6], options={"pooling": "mean"})
    driver.run()
    assert (answers[3, 0].finish_reason, answers[4, 0].finish_reason) == ("error", "stop")
    assert "the text's hidden states add up to a vector of length" in answers[3, 0].detail
    assert answers[1, 0].tokens == answers[2, 0].tokens == expected.run()[1, 0].tokens
