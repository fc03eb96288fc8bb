"""Logits and embeddings of tiny random models against transformers, on every instruction set of this machine.

The golden files and what they hold: tests/golden/make_architectures.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from engine_driver import logits_of

from pyllm import _core

GOLDEN = Path(__file__).resolve().parent / "golden" / "architectures"
CASES = sorted(path.stem for path in GOLDEN.glob("*.gguf"))
PROMISED = 1e-3  # of the largest |logit|, against float32 throughout
# The same for the median token, against transformers with keys and values rounded to float16 as our cache does.
# (The largest is larger: now and then a value falls on the other side of a float16 boundary.)
ROUNDING = 5e-5

Logits = npt.NDArray[np.float32]


@cache
def golden(case: str) -> dict[str, npt.NDArray[np.generic]]:
    return dict(np.load(GOLDEN / f"{case}.npz"))


def engine_of(case: str, isa: str, **options: int) -> _core.Engine:
    model = _core.Model(_core.GgufFile(GOLDEN / f"{case}.gguf"), threads=2, isa=isa)
    return _core.Engine(model, kv_bytes=2**22, **options)


def logits(case: str, isa: str, **options: int) -> Logits:
    return logits_of(engine_of(case, isa, **options), golden(case)["tokens"])


def embedding(case: str, isa: str, pooling: str, **options: int) -> npt.NDArray[np.float32]:
    engine = engine_of(case, isa, **options)
    engine.submit(1, golden(case)["tokens"], _core.SamplingParams(), pooling=pooling)
    while True:
        for event in engine.step(1.0):
            assert event.finish_reason == "stop", event.detail
            assert event.embedding is not None
            return event.embedding


def apart(found: Logits, expected: Logits) -> npt.NDArray[np.float32]:
    """Largest difference of each token's logits, relative to the largest |logit| of all: [token]."""
    assert found.shape == expected.shape
    return np.abs(found - expected).max(axis=1) / np.abs(expected).max()


def test_there_are_golden_files_of_every_architecture() -> None:
    architectures = {_core.GgufFile(path).get("general.architecture") for path in GOLDEN.glob("*.gguf")}
    assert architectures == set(_core.known_architectures())


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, isa: str) -> None:
    found = logits(case, isa)
    assert apart(found, golden(case)["logits"]).max() <= PROMISED
    assert np.median(apart(found, golden(case)["logits_f16_cache"])) <= ROUNDING


@pytest.mark.parametrize("case", CASES)
def test_chunks_of_a_prompt_do_not_change_its_logits(case: str) -> None:
    whole = logits(case, "")
    assert np.array_equal(whole, logits(case, "", max_batch_tokens=7))


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_pooled_states_of_transformers(case: str, isa: str) -> None:
    states = golden(case)["states"]
    for pooling, pooled in (("last", states[-1]), ("mean", states.mean(axis=0))):
        expected = pooled / np.linalg.norm(pooled)
        found = embedding(case, isa, pooling)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= PROMISED
        assert np.array_equal(found, embedding(case, isa, pooling, max_batch_tokens=7))
