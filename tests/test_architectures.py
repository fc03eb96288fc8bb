"""Logits of tiny random models against transformers, on every instruction set of this machine.

The golden files and what they hold: tests/golden/make_architectures.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

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


def logits(case: str, isa: str, **options: int) -> Logits:
    model = _core.Model(_core.GgufFile(GOLDEN / f"{case}.gguf"), threads=2, isa=isa)
    engine = _core.Engine(model, kv_bytes=2**22, **options)
    engine.submit(1, golden(case)["tokens"], _core.SamplingParams(), want_logits=True)
    rows = []
    while True:
        for event in engine.step(1.0):
            assert event.finish_reason != "error", event.detail
            if event.logits is not None:
                rows.append(event.logits)
            if event.finish_reason:
                return np.concatenate(rows)


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
