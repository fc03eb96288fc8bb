"""Masks in the engine: what a source of masks is told, and what streams get, over a fake model and source."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from engine_driver import VOCAB, Driver, FakeModel, fake_greedy, fake_logits

from pyllm import _core
from pyllm.errors import PyllmError

BLOCK_BYTES = 1024
EOS = 0


class State:
    """Of one stream: what may come is a function of the tokens it was told, one by one."""

    def __init__(self, salt: int = 0, fails_at: int = -1) -> None:
        self.salt, self.fails_at = salt, fails_at
        self.told: list[int] = []
        self.asked = 0

    def allowed(self, told: list[int] | None = None) -> list[int]:
        told = self.told if told is None else told
        random = np.random.default_rng([self.salt, *told])
        return sorted(random.choice(np.arange(1, VOCAB), 4, replace=False).tolist())


class Source:
    """Writes the states' masks. dies: after so many calls."""

    def __init__(self, dies: int = 1 << 30) -> None:
        self.calls = 0
        self.dies = dies

    def fill(self, states: list[State], tokens: list[list[int]], address: int, row_bytes: int) -> list[str]:
        self.calls += 1
        if self.calls > self.dies:
            raise RuntimeError("the source died")
        errors = []
        for row, (state, new) in enumerate(zip(states, tokens, strict=True)):
            # The streams of a prompt share the first one's mask, so the others' first one is their second.
            assert len(new) == 1 or (not new and not state.asked)
            state.asked += 1
            state.told += new
            bits = sum(1 << token for token in state.allowed())
            ctypes.memmove(address + row * row_bytes, bits.to_bytes(row_bytes, "little"), row_bytes)
            errors.append("it cannot be" if len(state.told) == state.fails_at else "")
        return errors


class Ends(State):
    """Any token twice, then only the end."""

    def allowed(self, told: list[int] | None = None) -> list[int]:
        told = self.told if told is None else told
        return [EOS] if len(told) == 2 else list(range(1, VOCAB))


def driver(source: Source | None = None, blocks: int = 256, **options: Any) -> Driver:
    model = FakeModel().model
    engine = _core.Engine(model, kv_bytes=blocks * BLOCK_BYTES, eos=[EOS], masks=source or Source(), **options)
    return Driver(engine)


def expected(prompt: list[int], state: State, count: int) -> list[int]:
    """Greedy among what the state allows, one token at a time."""
    told: list[int] = []
    for _ in range(count):
        logits = fake_logits([*prompt, *told])
        told.append(max(state.allowed(told), key=lambda token: (logits[token], -token)))
    return told


@pytest.mark.parametrize(("blocks", "max_batch_tokens"), [(256, 512), (256, 5), (24, 64)])
def test_masks_hold_alone_in_a_batch_in_chunks_and_after_preemption(blocks: int, max_batch_tokens: int) -> None:
    run = driver(blocks=blocks, max_batch_tokens=max_batch_tokens)
    prompts = [np.random.default_rng(id).integers(1, VOCAB, 3 + 17 * id).tolist() for id in range(8)]
    states = [State(id) for id in range(8)]
    for id, prompt in enumerate(prompts):
        free = id % 4 == 3  # every fourth is not constrained
        options = {} if free else {"constraint": [states[id]]}
        run.submit(id, prompt, max_tokens=40, ignore_eos=free, options=options)
    answers = run.run()
    for id, prompt in enumerate(prompts):
        got = answers[id, 0].tokens
        if id % 4 == 3:
            assert len(got) == 40
            assert states[id].asked == 0
            continue
        assert got == expected(prompt, states[id], 40)
        assert states[id].told == got[:-1]  # each token once, in order; the last one is followed by none
    if blocks == 24:
        assert run.engine.stats()["preemptions"] > 0


def test_streams_of_one_prompt_share_their_first_mask_and_go_on_alone() -> None:
    run = driver()
    states = [State(7) for _ in range(5)]
    run.submit(1, [3, 4, 5], n=5, max_tokens=12, temperature=2.0, seed=11, options={"constraint": states})
    answers = run.run()
    assert len({tuple(answers[1, i].tokens) for i in range(5)}) > 1
    for i, state in enumerate(states):
        tokens = answers[1, i].tokens
        assert all(token in state.allowed(tokens[:place]) for place, token in enumerate(tokens))
        assert state.told == tokens[:-1]


@pytest.mark.parametrize("seed", range(12))
def test_a_mask_is_the_same_as_banning_the_others(seed: int) -> None:
    """logit_bias of -infinity is the other way to say it, with every parameter of the chain."""
    random = np.random.default_rng(seed)
    params: dict[str, Any] = {"temperature": float(random.choice([0.0, 0.7, 1.5])), "seed": seed}
    for name, values in {
        "top_k": [0, 3], "top_p": [1.0, 0.7], "min_p": [0.0, 0.1], "typical_p": [1.0, 0.6],
        "repetition_penalty": [1.0, 1.3], "frequency_penalty": [0.0, 0.4], "top_n_sigma": [0.0, 1.0],
        "mirostat_tau": [0.0, 3.0], "min_tokens": [0, 6], "dry_multiplier": [0.0, 0.8],
    }.items():  # fmt: skip
        params[name] = random.choice(values).item()

    class Same(State):
        def allowed(self, told: list[int] | None = None) -> list[int]:
            return [2, 3, 5, 7, 11]

    params |= {"max_tokens": 20, "logprobs": True, "top_logprobs": 4}
    run = driver()
    run.submit(1, [1, 2, 3], **params, options={"constraint": [Same()]})
    banned = {token: -np.inf for token in range(VOCAB) if token not in (2, 3, 5, 7, 11)}
    run.submit(2, [1, 2, 3], **params, logit_bias=banned)
    answers = run.run()
    assert answers[1, 0].tokens == answers[2, 0].tokens
    assert answers[1, 0].logprobs == answers[2, 0].logprobs


def test_log_probabilities_are_the_models_own() -> None:
    run = driver()
    state = State(3)
    run.submit(1, [5, 6], max_tokens=1, logprobs=True, top_logprobs=VOCAB, options={"constraint": [state]})
    (logprob, top) = run.run()[1, 0].logprobs[0]
    logits = fake_logits([5, 6]).astype(np.float64)
    own = logits - np.log(np.exp(logits).sum())
    assert logprob == pytest.approx(own[run.answers[1, 0].tokens[0]], abs=1e-5)
    assert dict(top) == pytest.approx(dict(enumerate(own)), abs=1e-5)


@pytest.mark.parametrize("params", [{}, {"ignore_eos": True}, {"min_tokens": 4}])
def test_where_only_the_end_may_come_it_comes(params: dict[str, Any]) -> None:
    run = driver()
    run.submit(1, [5, 6], max_tokens=9, **params, options={"constraint": [Ends()]})
    answer = run.run()[1, 0]
    assert (answer.finish_reason, len(answer.tokens), answer.tokens[-1]) == ("stop", 3, EOS)


def test_a_mask_that_cannot_be_fails_its_stream_alone() -> None:
    run = driver()
    states = [State(1), State(1, fails_at=3), State(1)]
    run.submit(1, [5, 6], n=3, max_tokens=8, temperature=1.0, seed=5, options={"constraint": states})
    run.submit(2, [5, 6], max_tokens=8, ignore_eos=True)
    answers = run.run()
    assert [answers[1, i].finish_reason for i in range(3)] == ["length", "error", "length"]
    assert answers[1, 1].detail == "constraint: it cannot be"
    assert answers[2, 0].finish_reason == "length"


def test_a_source_that_dies_fails_those_that_need_it() -> None:
    run = driver(Source(dies=2))
    run.submit(1, [5, 6], max_tokens=8, options={"constraint": [State()]})
    run.submit(2, [5, 6], max_tokens=8, ignore_eos=True)
    answers = run.run()
    assert answers[1, 0].finish_reason == "error"
    assert "the source died" in answers[1, 0].detail
    assert answers[2, 0].finish_reason == "length"
    run.submit(3, [5, 6], max_tokens=8, ignore_eos=True)
    assert run.run()[3, 0].tokens == answers[2, 0].tokens


def test_states_are_let_go_of() -> None:
    run = driver()
    kept = []
    for id in range(3):
        states = [State(id) for _ in range(2)]
        kept += [weakref.ref(state) for state in states]
        run.submit(id, [5, 6], n=2, max_tokens=1000, options={"constraint": states})
    del states
    for _ in range(5):
        run.step()
    run.engine.cancel(0)
    run.engine.cancel(1)
    run.step()
    gc.collect()
    assert [ref() is None for ref in kept] == [True] * 4 + [False] * 2
    del run.engine
    gc.collect()
    assert all(ref() is None for ref in kept)


def test_wrong_constraints_are_refused() -> None:
    run = driver()
    with pytest.raises(PyllmError, match="constraint: expected one for each of 2 streams, got 1"):
        run.submit(1, [5], n=2, options={"constraint": [State()]})
    without = Driver(_core.Engine(FakeModel().model, kv_bytes=64 * BLOCK_BYTES))
    with pytest.raises(PyllmError, match="without a source of masks"):
        without.submit(1, [5], options={"constraint": [State()]})
    without.submit(2, [5], ignore_eos=True)
    assert without.run()[2, 0].tokens == fake_greedy([5], 4)
