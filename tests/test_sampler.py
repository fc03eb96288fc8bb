"""The sampler against a slow, obvious twin in numpy, and each filter against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyllm import PyllmError, _core

INF = float("inf")


def sampler(vocab: int, eos: list[int] | None = None, fork: int = 0, **params: Any) -> Any:
    return _core.testing.Sampler(_core.SamplingParams(**params), vocab, eos or [], fork)


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


def survivors(logits: np.ndarray, **params: Any) -> dict[int, float]:
    return dict(sampler(len(logits), **params).distribution(logits))


# --- the twin -----------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def twin_penalties(x: np.ndarray, p: dict[str, Any], prompt: list[int], generated: list[int]) -> np.ndarray:
    x = x.copy()
    last = p.get("penalty_last_n", -1)
    marks = [(t, False) for t in prompt] + [(t, True) for t in generated]
    marks = marks[len(marks) - min(last, len(marks)) :] if last >= 0 else marks
    for t in {t for t, _ in marks}:
        r = p.get("repetition_penalty", 1.0)
        x[t] = x[t] / r if x[t] > 0 else x[t] * r
        count = sum(mine for u, mine in marks if u == t)
        if count:
            x[t] -= p.get("presence_penalty", 0.0) + count * p.get("frequency_penalty", 0.0)
    return x


def ends_with(tokens: list[int], tail: list[int]) -> bool:
    return tokens[len(tokens) - len(tail) :] == tail


def twin_dry(x: np.ndarray, p: dict[str, Any], context: list[int]) -> np.ndarray:
    """Every earlier position, every length: quadratic and plain."""
    if not p.get("dry_multiplier"):
        return x
    last = p.get("dry_penalty_last_n", -1)
    context = context[len(context) - min(last, len(context)) :] if last >= 0 else context
    breakers = p.get("dry_sequence_breakers", [])
    reach = len(context)
    for i in range(len(context)):
        if any(ends_with(context[: len(context) - i], b) and len(b) <= len(context) - i for b in breakers):
            reach = i
            break
    allowed, longest = p.get("dry_allowed_length", 2), {}
    for end in range(1, len(context)):
        if [context[end]] in breakers:
            continue
        length = 0
        while length < min(end, reach) and context[end - 1 - length] == context[len(context) - 1 - length]:
            length += 1
        if length >= allowed:
            longest[context[end]] = max(length, longest.get(context[end], 0))
    x = x.copy()
    for token, length in longest.items():
        x[token] -= p["dry_multiplier"] * p.get("dry_base", 1.75) ** (length - allowed)
    return x


def twin_filters(x: np.ndarray, p: dict[str, Any]) -> set[int]:
    """Full sorts, full softmax at each filter; XTC fires when its probability is 1."""
    keep = np.flatnonzero(np.isfinite(x))
    if n := p.get("top_n_sigma"):
        keep = keep[x[keep] >= x[keep].max() - n * x[keep].std()]
    if k := p.get("top_k"):
        keep = keep[np.lexsort((keep, -x[keep]))][:k]
    if (tau := p.get("typical_p", 1.0)) < 1:
        q = softmax(x[keep])
        oddity = np.abs(-np.log(q) - -(q * np.log(q)).sum())
        order = np.argsort(oddity, kind="stable")
        keep = keep[order][: np.searchsorted(np.cumsum(q[order]), tau) + 1]
    if (top := p.get("top_p", 1.0)) < 1:
        keep = keep[np.lexsort((keep, -x[keep]))]
        keep = keep[: np.searchsorted(np.cumsum(softmax(x[keep])), top) + 1]
    if low := p.get("min_p"):
        q = softmax(x[keep])
        keep = keep[q >= low * q.max()]
    if p.get("xtc_probability") == 1 and p.get("xtc_threshold", 0.1) <= 0.5:
        q = softmax(x[keep])
        tops = keep[q >= p.get("xtc_threshold", 0.1)]
        if len(tops):
            spared = tops[np.lexsort((tops, -x[tops]))][-1]
            keep = np.array([t for t in keep if t == spared or t not in tops])
    return set(keep.tolist())


FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7, "temperature": 2.0},
    {"top_k": 900},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"top_p": 0.9999},
    {"top_k": 50, "top_p": 0.8},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"min_p": 0.02, "top_p": 0.97},
    {"typical_p": 0.7},
    {"typical_p": 0.95, "top_p": 0.8, "min_p": 0.05},
    {"typical_p": 0.2, "top_k": 30},
    {"top_n_sigma": 1.0},
    {"top_n_sigma": 0.5, "top_p": 0.5},
    {"top_n_sigma": 2.0, "top_k": 5},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {
        "xtc_probability": 1.0,
        "xtc_threshold": 0.1,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "temperature": 0.8,
    },
    {"xtc_probability": 1.0, "xtc_threshold": 0.6},
]


@pytest.mark.parametrize("params", FILTERS, ids=str)
@pytest.mark.parametrize(("vocab", "spread"), [(11, 1.5), (1000, 3.0), (5003, 0.5), (5003, 6.0)])
def test_filters_equal_their_twin(params: dict[str, Any], vocab: int, spread: float) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(3):
        logits = rng.normal(0, spread, vocab).astype(np.float32)
        logits[rng.integers(0, vocab, 3)] = -INF
        found = survivors(logits, **params)
        x = logits.astype(np.float64)
        expected = twin_filters(x, params)
        # What float32 gives no weight at all may be missing.
        floor = x[list(expected)].max() - 80
        likely = {t for t in expected if x[t] > floor}
        assert set(found) & likely == likely
        assert set(found) <= expected
        ids = sorted(found)
        np.testing.assert_allclose(
            [found[t] for t in ids], softmax(x[ids] / params.get("temperature", 1.0)), rtol=2e-5, atol=1e-12
        )


def test_equal_logits_are_cut_by_id() -> None:
    assert set(survivors(np.zeros(700, np.float32), top_k=3)) == {0, 1, 2}
    assert set(survivors(np.zeros(4, np.float32), top_p=0.5)) == {0, 1}


PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "penalty_last_n": 5},
    {"presence_penalty": 0.5, "frequency_penalty": 0.25},
    {"frequency_penalty": -0.3, "penalty_last_n": 12},
    {"presence_penalty": 1.0, "penalty_last_n": 0},
    {"dry_multiplier": 0.8},
    {"dry_multiplier": 0.8, "dry_base": 1.1, "dry_allowed_length": 1, "dry_penalty_last_n": 9},
    {"dry_multiplier": 2.0, "dry_sequence_breakers": [[1], [2, 3]]},
    {
        "dry_multiplier": 2.0,
        "dry_allowed_length": 3,
        "dry_sequence_breakers": [[0, 0, 0]],
        "repetition_penalty": 1.1,
    },
]


@pytest.mark.parametrize("params", PENALTIES, ids=str)
def test_penalties_equal_their_twin(params: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    vocab = 6
    for _ in range(300):
        prompt, generated = (
            rng.integers(0, rng.integers(2, vocab + 1), n).tolist() for n in rng.integers(0, 24, 2)
        )
        logits = rng.normal(0, 2, vocab).astype(np.float32)
        x = twin_penalties(logits.astype(np.float64), params, prompt, generated)
        x = twin_dry(x, params, prompt + generated)
        found = sampler(vocab, **params).distribution(logits, prompt, generated)
        expected = softmax(x)
        np.testing.assert_allclose(sorted(found), list(enumerate(expected)), rtol=3e-5, atol=1e-12)


@pytest.mark.parametrize("last_n", [-1, 6])
def test_counts_kept_over_steps_equal_counts_from_nothing(last_n: int) -> None:
    params = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "penalty_last_n": last_n, "seed": 5}
    rng = np.random.default_rng(0)
    running = sampler(8, **params)
    generated: list[int] = []
    for _ in range(30):
        logits = rng.normal(0, 1, 8).astype(np.float32)
        assert running.distribution(logits, [1, 2, 3], generated) == sampler(8, **params).distribution(
            logits, [1, 2, 3], generated
        )
        generated.append(running.sample(logits, [1, 2, 3], generated)[0])


# --- by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),  # 0.5 reaches it
        ({"top_p": 0.6}, {0, 1}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.3}, {0, 1, 2}),  # 0.15 = 0.3 * 0.5
        ({"min_p": 0.49}, {0, 1}),
        # Entropy 1.21; surprises 0.69, 1.39, 1.90, 2.30: token 1 is the most typical, then 0.
        ({"typical_p": 0.2}, {1}),
        ({"typical_p": 0.7}, {0, 1}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, {1, 2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.14}, {2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.5}, {0, 1, 2, 3}),  # a single top choice stays
        ({"xtc_probability": 0.0, "xtc_threshold": 0.1}, {0, 1, 2, 3}),
        # Renormalized after top_k: 0.667 and 0.333.
        ({"top_k": 2, "top_p": 0.66}, {0}),
        ({"top_k": 2, "top_p": 0.67}, {0, 1}),
    ],
    ids=str,
)
def test_filters_by_hand(params: dict[str, Any], kept: set[int]) -> None:
    logits = logits_of(0.501, 0.25, 0.151, 0.098)
    assert set(survivors(logits, **params)) == kept


def test_top_n_sigma_by_hand() -> None:
    # Of the finite ones: mean 2, deviation sqrt(5) = 2.24.
    logits = np.array([5, 3, 1, -1, -INF], np.float32)
    assert set(survivors(logits, top_n_sigma=1.0)) == {0, 1}  # 2.76 and up
    assert set(survivors(logits, top_n_sigma=0.8)) == {0}  # 3.21 and up


def test_dry_by_hand() -> None:
    # ... 1 2 3 4 ... 1 2 3: token 4 would repeat three tokens; 9 followed only "3".
    context = [1, 2, 3, 4, 3, 9, 1, 2, 3]
    flat = np.zeros(10, np.float32)
    params = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_allowed_length": 2}
    found = dict(sampler(10, **params).distribution(flat, context))
    assert found[4] == pytest.approx(found[0] * np.exp(-2.0), rel=1e-5)
    assert found[9] == found[0]
    broken = dict(sampler(10, dry_sequence_breakers=[[2]], **params).distribution(flat, context))
    assert broken[4] == broken[0]  # after the 2 only one token is left to match


def test_repetition_penalty_by_hand() -> None:
    found = sampler(3, repetition_penalty=2.0).distribution(np.array([2, -1, 0.5], np.float32), [0], [1])
    np.testing.assert_allclose(sorted(found), list(enumerate(softmax(np.array([1.0, -2.0, 0.5])))), rtol=1e-5)


def test_bias_bans_and_minimum() -> None:
    logits = np.array([5, 4, 3, 2], np.float32)
    assert sampler(4, temperature=0.0).sample(logits)[0] == 0
    assert sampler(4, temperature=0.0, logit_bias={3: 4.0}).sample(logits)[0] == 3
    assert 0 not in survivors(logits, logit_bias={0: -INF})
    assert sampler(4, [0], temperature=0.0, ignore_eos=True).sample(logits)[0] == 1
    early = sampler(4, [0], temperature=0.0, min_tokens=2, stop_token_ids=[1])
    assert early.sample(logits, [9, 9, 9], [2])[0] == 2
    assert early.sample(logits, [9, 9, 9], [2, 2])[0] == 0


def test_greedy_takes_the_lowest_of_equals() -> None:
    rng = np.random.default_rng(1)
    for vocab in (1, 2, 127, 128, 129, 1000):
        logits = rng.integers(0, 4, vocab).astype(np.float32)
        assert sampler(vocab, temperature=0.0).sample(logits)[0] == int(logits.argmax())


# --- draws --------------------------------------------------------------------------------------------------


def test_philox_known_answers() -> None:
    assert _core.testing.philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _core.testing.philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 1.7}, {"top_k": 6}, {"top_p": 0.9, "min_p": 0.02}, {"typical_p": 0.8}],
    ids=str,
)
def test_draws_follow_the_distribution(params: dict[str, Any]) -> None:
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 1.5, 300).astype(np.float32)
    logits[40:] -= 4
    expected = survivors(logits, **params)
    n = 20_000
    found = np.zeros(300)
    drawing = sampler(300, seed=42, **params)
    for position in range(n):
        # The position is what the draw depends on: the same logits, one place further each time.
        found[drawing.sample(logits, range(position % 100), [0] * (position // 100))[0]] += 1
        if position % 100 == 99:
            drawing = sampler(300, seed=42 + position, **params)
    want = np.array([expected.get(t, 0.0) for t in range(300)]) * n
    assert found[want == 0].sum() == 0
    big = want >= 10
    chi2 = ((found[big] - want[big]) ** 2 / want[big]).sum()
    free = big.sum()
    assert chi2 < free + 4 * np.sqrt(2 * free)


def test_draws_depend_on_seed_fork_and_position_only() -> None:
    logits = np.zeros(1000, np.float32)
    first = sampler(1000, seed=7)
    tokens = [first.sample(logits, [1], [0] * i)[0] for i in range(20)]
    # In any order, by a new sampler, as after a preemption; and with part of the answer as the prompt.
    assert [sampler(1000, seed=7).sample(logits, [1], [0] * i)[0] for i in reversed(range(20))] == tokens[::-1]
    assert [sampler(1000, seed=7).sample(logits, [1] + [0] * i)[0] for i in range(20)] == tokens
    assert [sampler(1000, seed=8).sample(logits, [1], [0] * i)[0] for i in range(20)] != tokens
    assert [sampler(1000, fork=1, seed=7).sample(logits, [1], [0] * i)[0] for i in range(20)] != tokens
    assert len(set(tokens)) > 15
    assert len({sampler(1000).sample(logits)[0] for _ in range(5)}) > 1  # no seed: a fresh one each


def test_xtc_fires_with_its_probability() -> None:
    logits = logits_of(0.6, 0.3, 0.1)
    fired = 0
    for seed in range(2000):
        kept = sampler(3, seed=seed, xtc_probability=0.3, xtc_threshold=0.2).distribution(logits)
        fired += len(kept) == 2
    assert abs(fired - 600) < 4 * np.sqrt(2000 * 0.3 * 0.7)


def test_mirostat_steers_surprise_to_tau() -> None:
    rng = np.random.default_rng(2)
    logits = (-1.2 * np.log(1 + np.arange(2000))).astype(np.float32)
    for tau in (2.0, 4.0):
        steered = sampler(2000, seed=3, mirostat_tau=tau, mirostat_eta=0.1)
        mu, generated, surprises = 2 * tau, [], []
        for _ in range(400):
            x = logits[rng.permutation(2000)]
            q = softmax(x.astype(np.float64))
            allowed = np.flatnonzero(-np.log2(q) <= mu)
            allowed = allowed if len(allowed) else np.array([q.argmax()])
            token = steered.sample(x, [0], generated)[0]
            assert token in allowed
            surprise = -np.log2(q[token] / q[allowed].sum())
            mu -= 0.1 * (surprise - tau)
            surprises.append(surprise)
            generated.append(token)
        assert np.mean(surprises[100:]) == pytest.approx(tau, abs=0.3)


# --- log-probabilities --------------------------------------------------------------------------------------


def test_logprobs_are_the_models_own() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 4, 3000).astype(np.float32)
    own = np.log(softmax(logits.astype(np.float64)))
    best = int(logits.argmax())
    params = {"logit_bias": {best: -3.0}, "repetition_penalty": 1.5, "top_k": 20, "temperature": 0.7, "seed": 1}
    token, logprob, top = sampler(3000, logprobs=True, top_logprobs=5, **params).sample(logits, [best, 7])
    assert logprob == pytest.approx(own[token], abs=2e-5)
    assert [i for i, _ in top] == np.argsort(-logits, kind="stable")[:5].tolist()
    np.testing.assert_allclose([x for _, x in top], own[[i for i, _ in top]], atol=2e-5)
    token, logprob, _ = sampler(3000, logprobs=True, logit_bias={5: 100.0}, temperature=0.0).sample(logits)
    assert (token, logprob) == (5, pytest.approx(own[5], abs=2e-5))
    assert len(sampler(3, logprobs=True, top_logprobs=9).sample(np.zeros(3))[2]) == 3


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("at", [0, 130, 199])
def test_logits_that_are_no_numbers(bad: float, at: int) -> None:
    logits = np.zeros(200, np.float32)
    logits[at] = bad
    with pytest.raises(PyllmError, match=rf"position 3: .*{bad}.*token {at}\b"):
        sampler(200).sample(logits, [1, 2], [3])


def test_nothing_to_choose_from() -> None:
    with pytest.raises(PyllmError, match="every one of the model's logits"):
        sampler(2).sample(np.full(2, -INF))
    with pytest.raises(PyllmError, match="leave no token"):
        sampler(2, logit_bias={0: -INF, 1: -INF}).sample(np.zeros(2))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: expected 1 to"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens: expected 0 to 3, got 4"),
        ({"max_tokens": 2**40}, "max_tokens: expected an integer"),
        ({"temperature": -0.1}, "temperature: expected 0 to 100, got -0.1"),
        ({"temperature": float("nan")}, "temperature: .*nan"),
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": -1.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": float("nan")}, "min_p"),
        ({"typical_p": 2.0}, "typical_p"),
        ({"top_n_sigma": -1.0}, "top_n_sigma"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": INF}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"penalty_last_n": -2}, "penalty_last_n"),
        ({"dry_multiplier": -1.0}, "dry_multiplier"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_allowed_length": 0}, "dry_allowed_length"),
        ({"dry_sequence_breakers": [[]]}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": [[10]]}, "dry_sequence_breakers: expected token ids from 0 to 9, got 10"),
        ({"xtc_probability": 1.1}, "xtc_probability"),
        ({"xtc_threshold": -0.1}, "xtc_threshold"),
        ({"mirostat_tau": -1.0}, "mirostat_tau"),
        ({"mirostat_eta": float("nan")}, "mirostat_eta"),
        ({"logit_bias": {10: 1.0}}, "logit_bias: expected token ids"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"logit_bias": {1: INF}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"n": 0}, "n: expected 1"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"top_logprobs": 5}, "top_logprobs: .*logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"temprature": 1.0}, "no field temprature"),
    ],
    ids=str,
)
def test_bad_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(PyllmError, match=says):
        sampler(10, **params)
