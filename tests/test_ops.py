"""Every kernel on every instruction set against its obvious twin, and all of them against each other."""

import itertools

import gguf
import numpy as np
import pytest

from pyllm import _core
from pyllm.errors import PyllmError

ISAS = _core.isas()
QUANTS = [name for name in _core.quant_types() if name not in ("F32", "F16", "BF16")]
BLOCK = {name: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] for name in QUANTS}


def random_blocks(quant: str, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of random bytes whose scales are ordinary numbers; shape [rows, bytes of a row]."""
    block, size = BLOCK[quant]
    count = rows * cols // block
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for field in half_fields(quant, size):
        data[:, field : field + 2] = rng.normal(0, 0.01, count).astype(np.float16).view(np.uint8).reshape(-1, 2)
    if quant == "MXFP4":
        data[:, 0] = rng.integers(118, 124, count)
    if quant == "IQ1_M":  # its half is spread over the top four bits of the four scale words
        bits = rng.normal(0, 0.01, count).astype(np.float16).view(np.uint16)
        for i in range(4):
            high = (bits >> (4 * i) & 15).astype(np.uint8) << 4
            data[:, size - 8 + 2 * i + 1] = (data[:, size - 8 + 2 * i + 1] & 15) | high
    return data.reshape(rows, -1)


def half_fields(quant: str, size: int) -> list[int]:
    """Where a block of this type keeps its halfs."""
    last, first_two = [size - 2], [0, 2]
    return {
        "Q2_K": [size - 4, size - 2],
        "Q3_K": last,
        "Q6_K": last,
        "TQ1_0": last,
        "TQ2_0": last,
        "Q4_1": first_two,
        "Q5_1": first_two,
        "Q4_K": first_two,
        "Q5_K": first_two,
        "MXFP4": [],
        "IQ1_M": [],
    }.get(quant, [0])


@pytest.mark.parametrize("quant", QUANTS)
def test_matmul_equals_its_twin_bit_for_bit(quant: str) -> None:
    rng = np.random.default_rng(len(quant))
    block = BLOCK[quant][0]
    sizes = [(1, 1, 1), (16, 2, 16), (17, 3, 5), (40, 1, 33), (70, 2, 15), (3, 5, 8), (33, 1, 20)]
    for rows, blocks, columns in sizes:
        cols = blocks * block
        data = random_blocks(quant, rows, cols, rng)
        x = rng.normal(0, 1, (columns, cols)).astype(np.float32)
        x[0, :32] = 0  # an all-zero activation block
        expected = _core.ops.matmul_reference(quant, data, rows, x)
        assert np.isfinite(expected).all()
        for isa, threads in itertools.product(ISAS, (1, 3)):
            got = _core.ops.matmul(quant, data, rows, x, isa=isa, threads=threads)
            np.testing.assert_array_equal(got, expected, err_msg=f"{isa} {rows}x{cols} {columns} columns")


@pytest.mark.parametrize("quant", QUANTS)
def test_matmul_is_close_to_float64(quant: str) -> None:
    rng = np.random.default_rng(7)
    cols, rows = 512, 32
    data = random_blocks(quant, rows, cols, rng)
    x = rng.normal(0, 1, (9, cols)).astype(np.float32)
    weights = _core.dequantize(quant, data.reshape(-1), rows * cols).reshape(rows, cols).astype(np.float64)
    exact = x.astype(np.float64) @ weights.T
    error = _core.ops.matmul(quant, data, rows, x) - exact
    assert np.sqrt(np.mean(error**2)) < 0.01 * np.sqrt(np.mean(exact**2))  # int8 activations


@pytest.mark.parametrize("quant", ["Q4_1", "Q6_K", "IQ3_S"])
def test_precise_matmul(quant: str) -> None:
    rng = np.random.default_rng(8)
    cols, rows = 512, 37
    data = random_blocks(quant, rows, cols, rng)
    x = rng.normal(0, 1, (11, cols)).astype(np.float32)
    weights = _core.dequantize(quant, data.reshape(-1), rows * cols).reshape(rows, cols).astype(np.float64)
    exact = x.astype(np.float64) @ weights.T
    results = [_core.ops.matmul(quant, data, rows, x, isa=isa, precise=True) for isa in ISAS]
    assert np.sqrt(np.mean((results[0] - exact) ** 2)) < 1e-4 * np.sqrt(np.mean(exact**2))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    alone = _core.ops.matmul(quant, data, rows, x[4:5], precise=True)
    np.testing.assert_array_equal(alone[0], results[0][4])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_float_matmul(kind: str) -> None:
    rng = np.random.default_rng(3)
    for rows, cols, columns in [(1, 1, 1), (16, 32, 16), (33, 70, 21), (5, 17, 40)]:
        weights = rng.normal(0, 1, (rows, cols)).astype(np.float32)
        x = rng.normal(0, 1, (columns, cols)).astype(np.float32)
        if kind == "F32":
            data = weights
        elif kind == "F16":
            data = weights.astype(np.float16)
            weights = data.astype(np.float32)
        else:
            data = (weights.view(np.uint32) >> 16).astype(np.uint16)
            weights = (data.astype(np.uint32) << 16).view(np.float32)
        raw = np.frombuffer(data.tobytes(), np.uint8)
        results = [_core.ops.matmul(kind, raw, rows, x, isa=isa, threads=t) for isa in ISAS for t in (1, 2)]
        np.testing.assert_allclose(results[0], x.astype(np.float64) @ weights.T.astype(np.float64), atol=1e-4)
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_precise_leaves_float_weights_alone() -> None:
    rng = np.random.default_rng(4)
    raw = np.frombuffer(
        rng.normal(0, 1, (5, 50)).astype(np.float32).tobytes(), np.uint8
    )  # not a multiple of 32
    x = rng.normal(0, 1, (3, 50)).astype(np.float32)
    precise = _core.ops.matmul("F32", raw, 5, x, precise=True)
    np.testing.assert_array_equal(precise, _core.ops.matmul("F32", raw, 5, x))


def test_columns_do_not_see_each_other() -> None:
    rng = np.random.default_rng(5)
    data = random_blocks("Q4_K", 48, 512, rng)
    x = rng.normal(0, 1, (37, 512)).astype(np.float32)
    together = _core.ops.matmul("Q4_K", data, 48, x)
    for i in range(37):
        np.testing.assert_array_equal(_core.ops.matmul("Q4_K", data, 48, x[i : i + 1])[0], together[i])


def test_bad_activations_reach_the_result() -> None:
    rng = np.random.default_rng(6)
    data = random_blocks("Q8_0", 16, 64, rng)
    for bad in (np.nan, np.inf, -np.inf):
        for isa in ISAS:
            x = rng.normal(0, 1, (3, 64)).astype(np.float32)
            x[1, 40] = bad
            out = _core.ops.matmul("Q8_0", data, 16, x, isa=isa)
            assert np.isnan(out[1]).all()
            assert np.isfinite(out[[0, 2]]).all()


def attention_twin(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int,
    cap: float,
) -> np.ndarray:
    """Plain causal attention in float64 over keys and values rounded to half."""
    n, dim = q.shape[0], q.shape[1] // heads
    q64 = q.astype(np.float64).reshape(n, heads, dim)
    k64, v64 = (t.astype(np.float16).astype(np.float64).reshape(n, kv_heads, dim) for t in (k, v))
    out = np.zeros((n, heads, dim))
    for h in range(heads):
        scores = q64[:, h] @ k64[:, h * kv_heads // heads].T * scale
        if cap:
            scores = cap * np.tanh(scores / cap)
        position = np.arange(n)
        hidden = position[None, :] > position[:, None]
        if window:
            hidden |= position[None, :] <= position[:, None] - window
        scores[hidden] = -np.inf
        weight = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, h] = weight / weight.sum(axis=1, keepdims=True) @ v64[:, h * kv_heads // heads]
    return out.reshape(n, heads * dim)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q8_q4", "q6_q4", "q4_0"])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "window", "cap"),
    [
        (1, 1, 1, 16, 0, 0),
        (40, 6, 2, 24, 0, 0),
        (300, 4, 4, 64, 0, 0),
        (530, 3, 1, 40, 0, 30),
        (600, 8, 2, 16, 100, 0),
        (290, 2, 1, 256, 5, 0),
        (280, 7, 1, 80, 0, 0),
    ],
)
def test_attention(
    tokens: int, heads: int, kv_heads: int, dim: int, window: int, cap: float, kv_type: str
) -> None:
    rng = np.random.default_rng(tokens)
    q = rng.normal(0, 1, (tokens, heads * dim)).astype(np.float32)
    k, v = (rng.normal(0, 1, (tokens, kv_heads * dim)).astype(np.float32) for _ in range(2))
    blocks = rng.permutation((tokens + 15) // 16 + 3).tolist()
    options = {"scale": dim**-0.5, "window": window, "softcap": cap, "blocks": blocks, "kv_type": kv_type}
    expected = attention_twin(q, k, v, heads, kv_heads, dim**-0.5, window, cap)
    first = _core.ops.attend(q, k, v, heads, kv_heads, **options)
    error = np.sqrt(np.mean((first - expected) ** 2)) / np.sqrt(np.mean(expected**2))
    assert error < {"f16": 1e-5, "q8_0": 0.015, "q8_q4": 0.15, "q6_q4": 0.15, "q4_0": 0.2}[kv_type]
    for isa, threads, chunk in itertools.product(ISAS, (1, 2), (7, 64, 10000)):
        got = _core.ops.attend(q, k, v, heads, kv_heads, **options, isa=isa, threads=threads, chunk=chunk)
        np.testing.assert_array_equal(got, first, err_msg=f"{isa}, {threads} threads, chunks of {chunk}")
    if tokens < 100:
        one_by_one = _core.ops.attend(q, k, v, heads, kv_heads, **options, threads=2, chunk=1)
        np.testing.assert_array_equal(one_by_one, first)


@pytest.mark.parametrize(("kv_type", "limit"), [("q6_q4", 0.1), ("q4_0", 0.21)])
def test_a_4_bit_cache_holds_keys_with_outliers(kv_type: str, limit: float) -> None:
    """A feature of every key is 30 times as large as the others, as in real models: rotation spreads it."""
    rng = np.random.default_rng(3)
    q, k, v = (rng.normal(0, 1, (200, 64)).astype(np.float32) for _ in range(3))
    k[:, 5] += 30
    blocks = list(range(13))
    expected = attention_twin(q, k, v, 1, 1, 0.125, 0, 0)
    got = _core.ops.attend(q, k, v, 1, 1, scale=0.125, blocks=blocks, kv_type=kv_type)
    assert np.sqrt(np.mean((got - expected) ** 2)) < limit * np.sqrt(np.mean(expected**2))


def test_kv_types_take_the_memory_they_promise() -> None:
    bytes_per_token = {"f16": 256, "q8_0": 136, "q8_q4": 104, "q6_q4": 88, "q4_0": 72}
    for kv_type, size in bytes_per_token.items():
        assert _core.kv_block_bytes(kv_type, 8, 64) == 16 * 8 * size
    with pytest.raises(PyllmError, match="expected f16, q8_0, q8_q4, q6_q4 or q4_0, got q5_0"):
        _core.kv_block_bytes("q5_0", 8, 64)


def test_decoding_a_long_context_splits_it_without_changing_a_bit() -> None:
    rng = np.random.default_rng(9)
    tokens = 2100
    q = rng.normal(0, 1, (tokens, 32)).astype(np.float32)
    k, v = (rng.normal(0, 1, (tokens, 16)).astype(np.float32) for _ in range(2))
    blocks = list(range((tokens + 15) // 16))
    whole = _core.ops.attend(q, k, v, 2, 1, scale=0.25, blocks=blocks, threads=1)
    for threads in (1, 2):  # few queries a call: the chunks are dealt to the threads and folded afterwards
        parts = _core.ops.attend(q, k, v, 2, 1, scale=0.25, blocks=blocks, threads=threads, chunk=3)
        np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 577])
def test_row_ops(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = (rng.normal(0, 3, (5, n)).astype(np.float32) for _ in range(2))
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x64 + 0.044715 * x64**3))
    expected = {
        "silu_gate": x64 / (1 + np.exp(-x64)) * y64,
        "gelu_gate": 0.5 * x64 * (1 + tanh) * y64,
        "rms_norm": x64 / np.sqrt((x64**2).mean(axis=1, keepdims=True) + 1e-6) * y64[0],
    }
    if n % 2 == 0:
        a, b = x64[:, : n // 2], x64[:, n // 2 :]
        cos, sin = y64[:, : n // 2], y64[:, n // 2 :]
        expected["rope_halves"] = np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=1)
    for name, wanted in expected.items():
        arg = y[:1] if name == "rms_norm" else y
        results = [_core.ops.row_op(name, x, arg, isa=isa) for isa in ISAS]
        np.testing.assert_allclose(results[0], wanted, rtol=2e-5, atol=2e-6)
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_rope_of_adjacent_pairs() -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(0, 1, (5, 40)).astype(np.float32)
    cos, sin = (np.repeat(rng.normal(0, 1, (5, 20)).astype(np.float32), 2, axis=1) for _ in range(2))
    signed = np.where(np.arange(40) % 2 == 0, -sin, sin)
    swapped = x.reshape(5, 20, 2)[:, :, ::-1].reshape(5, 40)
    results = [
        _core.ops.row_op("rope_adjacent", x, np.concatenate([cos, signed], axis=1), isa=isa) for isa in ISAS
    ]
    np.testing.assert_allclose(results[0], x * cos + swapped * signed, atol=1e-6)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
