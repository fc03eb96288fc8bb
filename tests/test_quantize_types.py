"""Quantizers: their error, the same bytes on every machine, and input that means harm."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from pyllm import _core
from pyllm.errors import PyllmError

NUMBERS = ("F32", "F16", "BF16")
TYPES = [name for name in _core.written_types() if name not in NUMBERS]

# Relative RMS error of normal weights, a little above what is reached.
BOUNDS = {
    "Q8_0": 0.0065, "Q6_K": 0.018, "Q5_K": 0.036, "Q5_1": 0.038, "Q5_0": 0.043, "Q4_K": 0.072, "Q4_1": 0.078,
    "Q4_0": 0.09, "IQ4_NL": 0.078, "IQ4_XS": 0.078, "MXFP4": 0.13, "Q3_K": 0.15, "IQ3_S": 0.15, "IQ3_XXS": 0.18,
    "Q2_K": 0.27, "IQ2_S": 0.26, "IQ2_XS": 0.29, "IQ2_XXS": 0.33, "IQ1_M": 0.42, "IQ1_S": 0.47, "TQ1_0": 0.53,
    "TQ2_0": 0.53,
}  # fmt: skip


def normal(rows: int = 32, columns: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) * np.float32(0.05)


def there_and_back(
    kind: str, x: np.ndarray, importance: np.ndarray | None = None, **more: object
) -> np.ndarray:
    data = _core.quantize(kind, "F32", x, x.shape[1], importance, threads=1, **more)
    return _core.dequantize(kind, data, x.size).reshape(x.shape)


def relative_error(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(((x - y) ** 2).mean() / (x**2).mean()))


def test_all_types_of_today_can_be_written() -> None:
    assert set(TYPES) == set(BOUNDS)


@pytest.mark.parametrize("kind", TYPES)
def test_error_is_small(kind: str) -> None:
    x = normal()
    assert relative_error(x, there_and_back(kind, x)) < BOUNDS[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_error_is_no_larger_than_the_gguf_packages(kind: str) -> None:
    x = normal()
    try:
        peer = gguf.quantize(x, GGMLQuantizationType[kind])
    except NotImplementedError:
        pytest.skip(f"the gguf package cannot write {kind}")
    theirs = gguf.dequantize(peer, GGMLQuantizationType[kind])
    assert relative_error(x, there_and_back(kind, x)) <= relative_error(x, theirs)


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_rounded_to_nearest(kind: str) -> None:
    x = normal(4, 96)
    theirs = gguf.dequantize(gguf.quantize(x, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
    assert np.array_equal(there_and_back(kind, x), theirs)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0", "TQ1_0", "TQ2_0", "MXFP4", "F16", "BF16"])
def test_what_is_of_the_type_already_stays(kind: str) -> None:
    # The gguf package's scales come from the largest weight, as most writers'.
    once = gguf.dequantize(gguf.quantize(normal(), GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
    assert np.array_equal(there_and_back(kind, once), once)


@pytest.mark.parametrize("kind", TYPES)
def test_importance_moves_the_error(kind: str) -> None:
    x = normal()
    importance = np.random.default_rng(1).gamma(0.5, 1, x.shape[1]).astype(np.float32) + np.float32(1e-3)

    def weighted(y: np.ndarray) -> float:
        return float((importance * (x - y) ** 2).mean())

    assert weighted(there_and_back(kind, x, importance)) < 0.99 * weighted(there_and_back(kind, x))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("importance", [0.0, 1e-30, 1e30])
def test_any_even_importance_is_none(kind: str, importance: float) -> None:
    x = normal(4, 256)
    even = there_and_back(kind, x, np.full(256, importance, np.float32))
    assert relative_error(x, even) < 1.1 * BOUNDS[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_columns_that_nothing_used_are_not_lost(kind: str) -> None:
    x = normal(4, 512)
    importance = np.repeat(np.float32([0, 1]), 256)
    assert relative_error(x[:, :256], there_and_back(kind, x, importance)[:, :256]) < 1.2 * BOUNDS[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_extremes_stay_finite(kind: str) -> None:
    outlier = normal(1, 256)
    outlier[0, 77] = 1e4
    rows = [np.zeros(256), np.full(256, 0.03), np.full(256, -7.0), np.full(256, 1e-41), np.full(256, 1e38)]
    rows += [np.full(256, -3.4e38), np.where(np.arange(256) % 2, 3.4e38, -3.4e38), outlier[0]]
    x = np.array(rows, np.float32)
    y = there_and_back(kind, x)
    assert np.isfinite(y).all()
    assert (y[0] == 0).all()
    assert abs(y[7, 77] - 1e4) < 0.2e4 or kind.startswith(("IQ1", "IQ2", "TQ"))
    if kind not in ("IQ1_S", "IQ1_M"):  # whose levels are not symmetric
        assert relative_error(x[1:3], y[1:3]) < max(0.05, 1.2 * BOUNDS[kind])


@pytest.mark.parametrize("kind", [*NUMBERS, *TYPES])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named_or_repaired(kind: str, bad: float) -> None:
    x = normal(5, 256)
    x[4, 3] = x[3, 200] = bad
    with pytest.raises(PyllmError, match=r"row 3, column 200 is not a finite number"):
        there_and_back(kind, x)
    repaired = there_and_back(kind, x, repair=True)
    x[4, 3] = x[3, 200] = 0
    assert np.array_equal(repaired, there_and_back(kind, x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": 100}, "rows of 100"),
        ({"columns": 0}, "rows of 0"),
        ({"columns": -256}, "rows of -256"),
        ({"columns": 1 << 62}, "got 4096 bytes in all"),
        ({"columns": 768}, "expected rows of 3072 bytes"),
        ({"type": "Q8_1"}, "expected one of"),
        ({"source_type": "I32"}, "expected one of"),
        ({"importance": np.ones(255, np.float32)}, "importance of 256 columns, got 255"),
        ({"importance": np.full(256, np.nan, np.float32)}, "expected finite numbers from 0"),
        ({"importance": np.full(256, -1, np.float32)}, "an importance is -1"),
    ],
)
def test_sizes_and_types_are_checked(change: dict[str, object], said: str) -> None:
    given = {"type": "Q4_K", "source_type": "F32", "data": normal(4, 256), "columns": 256} | change
    with pytest.raises(PyllmError, match=said):
        _core.quantize(**given)


@pytest.mark.parametrize("source", ["F16", "BF16", "Q8_0", "Q4_K"])
def test_weights_of_any_type_are_read(source: str) -> None:
    x = normal(3, 512)
    data = _core.quantize(source, "F32", x, 512)
    widened = _core.dequantize(source, data, x.size)
    assert np.array_equal(
        _core.quantize("Q6_K", source, data, 512), _core.quantize("Q6_K", "F32", widened, 512)
    )


def digest(threads: int) -> str:
    found = hashlib.sha256()
    importance = np.random.default_rng(2).gamma(0.5, 1, 512).astype(np.float32)
    for kind in TYPES:
        for weights in (None, importance):
            found.update(_core.quantize(kind, "F32", normal(8), 512, weights, threads=threads).tobytes())
    return found.hexdigest()


def test_every_build_and_number_of_threads_gives_the_same_bytes() -> None:
    here = digest(1)
    assert digest(3) == here
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_quantize_types as t; print(t.digest(1))"
    command = [sys.executable, "-c", code, os.path.dirname(__file__)]
    scalar = subprocess.run(
        command, env={**os.environ, "PYLLM_ISA": "scalar"}, capture_output=True, text=True, check=True
    )
    assert scalar.stdout.strip() == here


@pytest.mark.parametrize("kind", TYPES)
def test_sizes_are_the_formats(kind: str) -> None:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    assert _core.quantize(kind, "F32", normal(2, block * 3), block * 3).nbytes == 6 * size
