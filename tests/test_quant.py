"""Weight types: dequantization against the `gguf` package, bit for bit, and the contract kernels build on."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import PyllmError

QUANTIZED = [name for name in _core.quant_types() if name not in ("F32", "F16", "BF16")]
Bytes = NDArray[np.uint8]


def random_bytes(name: str, blocks: int, seed: int = 0) -> Bytes:
    """Blocks of every bit pattern: negative, subnormal, infinite and NaN scales included."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    return np.random.default_rng(seed).integers(0, 256, (blocks, size), dtype=np.uint8)


def reference(name: str, data: Bytes) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data.reshape(1, -1), GGMLQuantizationType[name]).reshape(-1)


def dequantize(name: str, data: Bytes) -> NDArray[np.float32]:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return _core.dequantize(name, data, data.size // size * block)


def assert_same_bits(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    """Identical bits; where one is NaN, so is the other (the bits of a NaN are not defined by the format)."""
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    numbers = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


def test_every_type_is_there() -> None:
    wanted = (
        "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ3_XXS "
        "IQ2_S IQ2_XS IQ2_XXS IQ1_S IQ1_M TQ1_0 TQ2_0 MXFP4"
    )
    assert set(_core.quant_types()) == set(wanted.split())


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_bytes_dequantize_as_defined(name: str) -> None:
    # 4,000 blocks also visit every entry of the largest grid.
    data = random_bytes(name, 4000)
    ours = dequantize(name, data)
    assert np.isfinite(ours).mean() > 0.5
    assert_same_bits(ours, reference(name, data))


@pytest.mark.parametrize("byte", [0x00, 0x55, 0x80, 0xAA, 0xFF])
@pytest.mark.parametrize("name", QUANTIZED)
def test_uniform_bytes(name: str, byte: int) -> None:
    data = np.full_like(random_bytes(name, 3), byte)
    assert_same_bits(dequantize(name, data), reference(name, data))


@pytest.mark.parametrize("name", QUANTIZED)
def test_rows_may_start_at_any_address(name: str) -> None:
    data = random_bytes(name, 5)
    shifted = np.empty(data.size + 1, np.uint8)[1:]
    shifted[:] = data.reshape(-1)
    assert_same_bits(dequantize(name, shifted), dequantize(name, data))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_real_weights(name: str) -> None:
    weights = np.random.default_rng(1).normal(0, 0.03, (8, 1024)).astype(np.float32)
    data = gguf.quants.quantize(weights, GGMLQuantizationType[name])
    ours = dequantize(name, data)
    assert_same_bits(ours, reference(name, data))
    error = np.sqrt(np.mean((ours - weights.reshape(-1)) ** 2)) / 0.03
    assert error < {"TQ1_0": 1.0, "TQ2_0": 1.0, "MXFP4": 0.2, "Q8_0": 0.01}.get(name, 0.12)


@pytest.mark.parametrize("name", QUANTIZED)
def test_groups_keep_the_contract(name: str) -> None:
    data = random_bytes(name, 500, seed=2)
    finite = np.isfinite(dequantize(name, data)).reshape(500, -1).all(axis=1)
    data = data[finite]
    contract, groups = _core.testing.quant_contract(name), _core.testing.quant_groups(name, data)
    scale, low, codes, values = (groups[key] for key in ("scale", "min", "codes", "values"))

    assert (contract["block"], contract["bytes"]) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert codes.shape == (len(data), contract["block"] // contract["group"], contract["group"])
    assert codes.max() < 1 << contract["code_bits"]
    table = contract["table"]
    np.testing.assert_array_equal(values, codes if table is None else np.array(table, np.uint8)[codes])
    # int8 dot products on AVX2 saturate unless a code is below 128, or is a signed byte in disguise.
    assert contract["zero"] == 128 or values.max() <= 127

    weights = scale[..., None] * (values.astype(np.float32) - np.float32(contract["zero"]))
    if contract["has_min"]:
        weights = weights - low[..., None]
    else:
        assert not low.any()
    assert_same_bits(weights.reshape(-1), dequantize(name, data))


@pytest.mark.parametrize("name", QUANTIZED)
def test_scales_are_as_compact_as_declared(name: str) -> None:
    data = random_bytes(name, 500, seed=3)
    data = data[np.isfinite(dequantize(name, data)).reshape(500, -1).all(axis=1)]
    contract, groups = _core.testing.quant_contract(name), _core.testing.quant_groups(name, data)
    scale, low = groups["scale"], groups["min"]
    if contract["scales"] == "half":
        assert_same_bits(scale.astype(np.float16).astype(np.float32).reshape(-1), scale.reshape(-1))
        assert_same_bits(low.astype(np.float16).astype(np.float32).reshape(-1), low.reshape(-1))
    elif contract["scales"] == "super":
        factor = groups["d"].view(np.float16).astype(np.float32)[:, None]
        assert_same_bits((factor * groups["scale_of"].astype(np.float32)).reshape(-1), scale.reshape(-1))
        if contract["has_min"]:
            factor = groups["dmin"].view(np.float16).astype(np.float32)[:, None]
            assert_same_bits((factor * groups["min_of"].astype(np.float32)).reshape(-1), low.reshape(-1))
    else:
        assert contract["scales"] == "float"
        assert np.isfinite(scale).all()


def test_all_halves_to_float() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    assert_same_bits(_core.dequantize("F16", bits, bits.size), bits.view(np.float16).astype(np.float32))


def test_all_bfloat16_to_float() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    assert_same_bits(_core.dequantize("BF16", bits, bits.size), (bits.astype(np.uint32) << 16).view(np.float32))


def test_float32_is_copied() -> None:
    weights = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert_same_bits(_core.dequantize("F32", weights, 100), weights)


def assert_rounds_like_numpy(x: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    ours = _core.testing.to_half(x).view(np.float16)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected))
    numbers = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[numbers].view(np.uint16), expected[numbers].view(np.uint16))


def test_halves_survive_a_round_trip() -> None:
    assert_rounds_like_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32))


def test_floats_round_to_the_nearest_even_half() -> None:
    # Half-way points between neighbours, just below and just above, both signs, subnormals included.
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[:-1] + halves[1:]) / 2
    edges = np.array([65519.996, 65520.0, 65536.0, 1e30, np.inf, 2**-25, 2**-26, 1e-45, 0.0], np.float32)
    near = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.float32(np.inf)), edges])
    assert_rounds_like_numpy(np.concatenate([near, -near]))


def test_any_float_rounds_like_numpy() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1_000_000, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        assert_rounds_like_numpy(bits.view(np.float32))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PyllmError, match="multiple of 18 bytes for Q4_0, got 17"):
        _core.dequantize("Q4_0", bytes(17), 32)
    with pytest.raises(PyllmError, match="expected 64 weights in 36 bytes of Q4_0, got n = 32"):
        _core.dequantize("Q4_0", bytes(36), 32)
    with pytest.raises(PyllmError, match="n = -32"):
        _core.dequantize("Q4_0", bytes(18), -32)
    with pytest.raises(PyllmError, match="contiguous"):
        _core.dequantize("Q4_0", np.zeros(36, np.uint8)[::2], 32)
    assert _core.dequantize("Q4_0", b"", 0).shape == (0,)


@pytest.mark.parametrize("name", ["Q8_K", "Q8_1", "I32", "q4_0", "", "nonsense"])
def test_other_types_are_refused_by_name(name: str) -> None:
    with pytest.raises(PyllmError, match=f"type '{name}': expected one of F32, F16, Q4_0"):
        _core.dequantize(name, b"", 0)
