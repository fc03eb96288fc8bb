"""The engine over a fake model: what requests get, how they end, and what goes wrong alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_driver import VOCAB, Driver, FakeModel, fake_greedy, fake_logits

from pyllm import _core
from pyllm.errors import PyllmError

BLOCK_BYTES = 1024


def engine(model: FakeModel | None = None, blocks: int = 256, **options: Any) -> _core.Engine:
    return _core.Engine((model or FakeModel()).model, kv_bytes=blocks * BLOCK_BYTES, **options)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def wait(condition: threading.Event) -> None:
    assert condition.wait(10), "waited in vain"


# -- what a request gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 64, 512])
@pytest.mark.parametrize("blocks", [24, 256])
def test_many_requests_get_the_tokens_of_each_alone(max_batch_tokens: int, blocks: int) -> None:
    driver = Driver(engine(blocks=blocks, max_batch_tokens=max_batch_tokens))
    lengths = [1, 15, 16, 17, 33, 100, 200, 31, 5, 64]
    for id, length in enumerate(lengths):
        driver.submit(id, prompt(length, id), max_tokens=20 + id)
    answers = driver.run()
    for id, length in enumerate(lengths):
        assert answers[id, 0].tokens == fake_greedy(prompt(length, id), 20 + id)
        assert (answers[id, 0].finish_reason, answers[id, 0].detail) == ("length", "max_tokens")
        assert answers[id, 0].prompt_tokens == length
    stats = driver.engine.stats()
    assert stats["running"] == stats["waiting"] == 0
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"] == blocks
    if blocks == 24 and max_batch_tokens > 7:
        assert stats["preemptions"] > 0


def test_a_step_computes_at_most_max_batch_tokens_and_decodes_do_not_wait() -> None:
    model = FakeModel()
    driver = Driver(engine(model, max_batch_tokens=32))
    driver.submit(1, prompt(5), max_tokens=30)
    driver.step()
    driver.submit(2, prompt(500, 1), max_tokens=1)
    for tokens in range(2, 16):
        driver.step()
        assert len(driver.answers[1, 0].tokens) == tokens
    driver.run()
    assert max(model.batches) == 32


def test_prefixes_are_computed_once_and_only_under_one_salt() -> None:
    driver = Driver(engine())
    shared = prompt(100)
    driver.submit(1, shared)
    driver.run()
    computed = driver.engine.stats()["tokens_computed"]
    driver.submit(2, [*shared, 3, 4])
    assert driver.run()[2, 0].cached_tokens == 96
    assert driver.engine.stats()["tokens_computed"] == computed + 6 + 3
    driver.submit(3, [*shared, 3, 4], options={"cache_salt": "someone else's"})
    assert driver.run()[3, 0].cached_tokens == 0
    assert driver.answers[2, 0].tokens == driver.answers[3, 0].tokens == fake_greedy([*shared, 3, 4], 4)
    # A prompt that is cached whole still computes its last token, for the logits.
    driver.submit(4, shared[:96])
    assert driver.run()[4, 0].cached_tokens == 80
    assert driver.answers[4, 0].tokens == fake_greedy(shared[:96], 4)


def test_answers_are_prefixes_too() -> None:
    driver = Driver(engine())
    driver.submit(1, prompt(20), max_tokens=40)
    first = driver.run()[1, 0].tokens
    driver.submit(2, [*prompt(20), *first, 1, 2])
    assert driver.run()[2, 0].cached_tokens == 48


def test_requests_that_arrive_together_share_their_prefix() -> None:
    driver = Driver(engine(max_batch_tokens=64))
    for id in range(8):
        driver.submit(id, [*prompt(400), id])
    answers = driver.run()
    assert driver.engine.stats()["tokens_computed"] < 2 * 400
    assert all(answers[id, 0].tokens == fake_greedy([*prompt(400), id], 4) for id in range(8))


def test_the_prefix_cache_can_be_off() -> None:
    driver = Driver(engine(prefix_cache=False))
    for id in range(2):
        driver.submit(id, prompt(100))
        assert driver.run()[id, 0].cached_tokens == 0
    assert driver.engine.stats()["blocks_cached"] == 0


@pytest.mark.parametrize("length", [31, 32, 33])
def test_forks_share_the_prompt_and_draw_their_own(length: int) -> None:
    model = FakeModel()
    driver = Driver(engine(model))
    params = {"temperature": 1.0, "seed": 5, "max_tokens": 24}
    driver.submit(1, prompt(length), n=6, **params)
    answers = driver.run()
    assert sum(model.batches) == length + 6 * 23  # the prompt once; last tokens are not computed
    assert len({tuple(answers[1, i].tokens) for i in range(6)}) == 6
    # Alone or among many, with or without siblings: stream 0 is the same, and so is each with itself.
    driver.submit(2, prompt(length), **params)
    driver.submit(3, prompt(length), n=6, **params)
    answers = driver.run()
    assert answers[2, 0].tokens == answers[1, 0].tokens
    assert all(answers[3, i].tokens == answers[1, i].tokens for i in range(6))


def test_forks_do_not_see_what_sampling_did_to_the_shared_logits() -> None:
    driver = Driver(engine())
    params = {
        "repetition_penalty": 1.7,
        "logit_bias": {3: 0.4, 5: -0.7},
        "logprobs": True,
        "top_logprobs": VOCAB,
    }
    driver.submit(1, prompt(20), **params)
    driver.submit(2, prompt(20), n=4, **params)
    answers = driver.run()
    for index in range(4):
        assert answers[2, index].tokens == answers[1, 0].tokens
        assert answers[2, index].logprobs == answers[1, 0].logprobs


def test_more_forks_than_sequences_may_run() -> None:
    driver = Driver(engine(max_sequences=2, blocks=12))
    driver.submit(1, prompt(70), n=5, max_tokens=30)
    answers = driver.run()
    assert all(answers[1, i].tokens == fake_greedy(prompt(70), 30) for i in range(5))


def test_logits_of_every_prompt_token() -> None:
    for max_batch_tokens in (1, 7, 512):
        driver = Driver(engine(max_batch_tokens=max_batch_tokens))
        driver.submit(1, prompt(50), max_tokens=1)
        driver.submit(2, prompt(50), options={"want_logits": True})
        driver.run()
        driver.submit(3, prompt(50), options={"want_logits": True})  # although the prefix is cached
        answers = driver.run()
        expected = np.array([fake_logits(prompt(50)[: i + 1]) for i in range(50)])
        for id in (2, 3):
            assert (answers[id, 0].finish_reason, answers[id, 0].tokens) == ("length", [])
            np.testing.assert_array_equal(np.concatenate(answers[id, 0].logits), expected)


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 512])
def test_scores_of_prompt_tokens(max_batch_tokens: int) -> None:
    tokens = prompt(50)
    rows = np.array([fake_logits(tokens[: i + 1]) for i in range(49)], np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(49), tokens[1:]]
    driver = Driver(engine(max_batch_tokens=max_batch_tokens))
    for start in (1, 30, 49):
        driver.submit(start, tokens, options={"score_from": start})
    driver.run()
    driver.submit(99, tokens, options={"score_from": 40})  # what is before may be cached, what is scored is not
    for start, answer in ((start, driver.answers[start, 0]) for start in (1, 30, 49)):
        assert (answer.finish_reason, answer.tokens, answer.prompt_tokens) == ("length", [], 50)
        np.testing.assert_allclose(answer.scores, expected[start - 1 :], atol=1e-6)
    again = driver.run()[99, 0]
    assert again.cached_tokens == 32
    assert again.scores == driver.answers[1, 0].scores[39:]


@pytest.mark.parametrize(
    "options", [{"score_from": 0}, {"score_from": 5}, {"score_from": 1, "want_logits": True}]
)
def test_scores_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(PyllmError, match=r"score_from: expected (1 to 4 for 5 tokens|one of them at most)"):
        engine().submit(1, prompt(5), _core.SamplingParams(), **options)


def test_priority_goes_first() -> None:
    driver = Driver(engine(max_sequences=1))
    driver.submit(1, prompt(10), max_tokens=50)
    driver.step()
    driver.submit(2, prompt(10, 1), options={"priority": 1})
    driver.submit(3, prompt(10, 2), options={"priority": -1})
    ended = []
    while len(ended) < 3:
        driver.step()
        ended += [id for (id, _), answer in driver.answers.items() if answer.finish_reason and id not in ended]
    assert ended == [3, 1, 2]
    assert driver.answers[1, 0].tokens == fake_greedy(prompt(10), 50)  # it stepped aside for 3


# -- how requests end --------------------------------------------------------------------------------------


def test_stop_tokens_and_end_of_text() -> None:
    expected = fake_greedy(prompt(10), 30)
    stop = expected[7]
    at = expected.index(stop)
    driver = Driver(engine())
    driver.submit(1, prompt(10), max_tokens=30, stop_token_ids=[stop])
    answer = driver.run()[1, 0]
    assert (answer.tokens, answer.finish_reason) == (expected[: at + 1], "stop")

    driver = Driver(engine(eos=[stop, 99_999]))
    driver.submit(1, prompt(10), max_tokens=30)
    driver.submit(2, prompt(10), max_tokens=30, ignore_eos=True)
    driver.submit(3, prompt(10), max_tokens=30, min_tokens=25)
    answers = driver.run()
    assert (answers[1, 0].tokens, answers[1, 0].finish_reason) == (expected[: at + 1], "stop")
    assert len(answers[2, 0].tokens) == 30
    assert stop not in answers[2, 0].tokens
    assert stop not in answers[3, 0].tokens[:25]


@pytest.mark.parametrize(
    ("blocks", "context", "limit", "detail"), [(256, 64, 64, "context"), (3, 1024, 48, "kv_pool")]
)
def test_a_sequence_ends_where_context_or_pool_end(blocks: int, context: int, limit: int, detail: str) -> None:
    driver = Driver(engine(blocks=blocks, context=context))
    driver.submit(1, prompt(40), max_tokens=100, n=2)
    driver.submit(2, prompt(limit), max_tokens=100, n=2)
    driver.submit(3, prompt(limit), options={"want_logits": True})
    answers = driver.run()
    for index in range(2):
        assert answers[1, index].tokens == fake_greedy(prompt(40), limit - 40)
        assert (answers[1, index].finish_reason, answers[1, index].detail) == ("length", detail)
        assert (answers[2, index].tokens, answers[2, index].finish_reason) == ([], "length")
        assert answers[2, index].detail == detail
    assert len(np.concatenate(answers[3, 0].logits)) == limit


def test_cancel_frees_blocks_within_a_step() -> None:
    driver = Driver(engine(blocks=64, prefix_cache=False))
    driver.submit(1, prompt(100), n=3, max_tokens=500)
    driver.submit(2, prompt(900, 1), max_tokens=100)  # waits: the pool is too small for both
    for _ in range(5):
        driver.step()
    assert driver.engine.stats()["blocks_free"] < 57
    driver.engine.cancel(1)
    driver.engine.cancel(2)
    driver.engine.cancel(77)  # unknown: left alone
    driver.step()
    stats = driver.engine.stats()
    assert stats["blocks_free"] == stats["blocks_total"]
    assert all(answer.finish_reason == "cancelled" for answer in driver.answers.values())
    driver.submit(1, prompt(100))  # the id is free again
    assert driver.run()[1, 0].tokens == fake_greedy(prompt(100), 4)


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_a_step_that_throws_fails_its_requests_only() -> None:
    def explode(tokens: list[int]) -> None:
        if 13 in tokens:
            raise RuntimeError("out of luck")

    driver = Driver(engine(FakeModel(explode), max_sequences=1))
    driver.submit(1, [1, 2, 13], n=2)
    driver.submit(2, [1, 2, 3], max_tokens=1)
    answers = driver.run()
    for index in range(2):
        assert answers[1, index].finish_reason == "error"
        assert "out of luck" in answers[1, index].detail
    assert answers[2, 0].tokens == fake_greedy([1, 2, 3], 1)
    stats = driver.engine.stats()
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_logits_fail_their_request_alone(bad: float) -> None:
    model = FakeModel()

    def forward(tokens: list[int], sequences: list[Any], sampled: list[int], copies: list[Any]) -> Any:
        logits = model.forward(tokens, sequences, sampled, copies)
        logits[[tokens[row] == 13 for row in sampled], 7] = bad
        return logits

    driver = Driver(
        _core.Engine(
            _core.testing.fake_model(forward, VOCAB, 1024),
            kv_bytes=64 * BLOCK_BYTES,
            max_batch_tokens=8,
            eos=[],
        )
    )
    ban = {"logit_bias": {13: float("-inf")}}
    driver.submit(1, [1, 2, 13], n=2)
    driver.submit(2, [1, 2, 3], **ban)
    driver.submit(3, [1, 13, *prompt(50)], options={"want_logits": True})
    answers = driver.run()
    for key in ((1, 0), (1, 1), (3, 0)):
        assert answers[key].finish_reason == "error"
        assert "logits hold" in answers[key].detail
    assert answers[3, 0].detail.startswith("position 1:")
    assert answers[2, 0].finish_reason == "length"
    stats = driver.engine.stats()
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "expected at least one token"),
        ([1, 2, 16], "from 0 to 15, got 16 at position 2"),
        ([1, -1], "got -1 at position 1"),
        ([1, 2**40], "at position 1"),
        ([2**70], "list or a one-dimensional array of token ids"),
        ([1.5], "list or a one-dimensional array of token ids"),
        ("text", "list or a one-dimensional array of token ids"),
        ([[1, 2]], "list or a one-dimensional array of token ids"),
        ([1] * 513, "513 tokens are more than the context of 512; shorten it, or load"),
        ([1] * 500, "500 tokens are more than the 64 that the KV pool holds"),
    ],
)
def test_prompts_that_can_never_run(tokens: Any, message: str) -> None:
    small = engine(blocks=4, context=512)
    with pytest.raises(PyllmError, match=message):
        small.submit(1, tokens, _core.SamplingParams())
    small.submit(1, np.array([1, 2], np.int32), _core.SamplingParams(max_tokens=1))  # the id was not taken
    with pytest.raises(PyllmError, match="request 1 has not finished"):
        small.submit(1, [1], _core.SamplingParams())
    assert small.step(5)[0].id == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1025}, "expected 1 to 1024, .* got 1025"),
        ({"context": -1}, "got -1"),
        ({"max_batch_tokens": 0}, "max_batch_tokens: expected 1 to"),
        ({"max_sequences": 513}, "max_sequences: expected 1 to 512, .* got 513"),
        (
            {"kv_bytes": 100},
            r"at least 1024 \(one block of 16 tokens; 65536 for the context of 1024 tokens\), got 100",
        ),
        ({"kv_bytes": -1}, "got -1"),
        ({"kv_bytes": 1 << 60}, "more than the .* bytes of memory"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, int], message: str) -> None:
    model = FakeModel().model
    with pytest.raises(PyllmError, match=message):
        _core.Engine(model, **options)
    assert _core.Engine(model).kv_blocks == 64 * 64  # every sequence's whole context; the model was not lost
    with pytest.raises(PyllmError, match="already belongs to an engine"):
        _core.Engine(model)


def test_a_model_too_large_for_any_block() -> None:
    with pytest.raises(PyllmError, match="the KV pool needs at least"):
        _core.Engine(FakeModel(kv_block_bytes=1 << 60).model)


def test_a_pool_for_less_than_one_context_when_memory_is_short() -> None:
    bytes_per_block = _core.available_memory() // 16
    small = _core.Engine(FakeModel(kv_block_bytes=bytes_per_block).model)
    assert 3 <= small.kv_blocks <= 12  # three quarters of the memory


# -- threads -----------------------------------------------------------------------------------------------


def test_step_waits_for_work_for_wake_and_for_its_time() -> None:
    waiting = engine()
    assert waiting.step(0) == []
    started = time.monotonic()
    assert waiting.step(0.05) == []
    assert time.monotonic() - started >= 0.05
    with pytest.raises(PyllmError, match="timeout"):
        waiting.step(float("nan"))

    results: list[list[_core.Event]] = []
    woken = threading.Thread(target=lambda: results.append(waiting.step()))
    woken.start()
    waiting.wake()
    woken.join(10)
    assert results == [[]]
    worker = threading.Thread(target=lambda: results.append(waiting.step()))
    worker.start()
    waiting.submit(1, [1, 2], _core.SamplingParams(max_tokens=1))
    worker.join(10)
    assert results[1][0].finish_reason == "length"


def test_many_threads_submit_and_cancel_while_one_steps() -> None:
    shared = engine(blocks=64)
    done = threading.Event()
    got: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}

    def step() -> None:
        while not done.is_set():
            for event in shared.step(0.1):
                if event.token is not None:
                    got.setdefault(event.id, []).append(event.token)
                if event.finish_reason:
                    reasons[event.id] = event.finish_reason

    def client(number: int) -> None:
        for i in range(10):
            id = number * 100 + i
            shared.submit(id, prompt(10 + id % 50, id), _core.SamplingParams(temperature=0.0, max_tokens=8))
            if i % 3 == 2:
                shared.cancel(id)
            shared.stats()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    stepper = threading.Thread(target=step)
    for thread in [stepper, *threads]:
        thread.start()
    for thread in threads:
        thread.join(20)
    deadline = time.monotonic() + 20
    while len(reasons) < 60 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    stepper.join(20)
    assert len(reasons) == 60
    for id, reason in reasons.items():
        expected = fake_greedy(prompt(10 + id % 50, id), 8)
        assert got.get(id, []) == (expected if reason == "length" else expected[: len(got.get(id, []))])
        assert reason == "length" or id % 100 % 3 == 2


# -- memory ------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, object]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return str(root)


MEMINFO = {"proc/meminfo": "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:   800 kB"}


def test_available_memory_without_control_groups(tmp_path: Path) -> None:
    assert _core.available_memory(str(tmp_path)) == 0  # unknown
    assert _core.available_memory(write(tmp_path, MEMINFO)) == 800 * 1024
    assert _core.available_memory() > 1 << 20


def test_available_memory_under_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/"
    files = MEMINFO | {
        "proc/self/cgroup": "0::/a/b",
        group + "memory.max": 500_000,
        group + "memory.current": 300_000,
        group + "memory.stat": "anon 5\ninactive_file 60000",
        group + "b/memory.max": "max",
        group + "b/memory.current": 10,
    }
    assert _core.available_memory(write(tmp_path, files)) == 500_000 - (300_000 - 60_000)
    write(tmp_path, {group + "b/memory.max": 1000})
    assert _core.available_memory(str(tmp_path)) == 990
    # In a container the process's path may not exist below the mount; the mount is its group.
    write(
        tmp_path,
        {"proc/self/cgroup": "0::/c", "sys/fs/cgroup/memory.max": 7, "sys/fs/cgroup/memory.current": 9},
    )
    assert _core.available_memory(str(tmp_path)) == 0


def test_available_memory_under_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/x/"
    files = MEMINFO | {
        "proc/self/cgroup": "12:cpu,cpuacct:/docker/x\n7:memory:/docker/x\n0::/",
        group + "memory.limit_in_bytes": 400_000,
        group + "memory.usage_in_bytes": 100_000,
        group + "memory.stat": "total_inactive_file 50000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 2**63 - 4096,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 100_000,
    }
    assert _core.available_memory(write(tmp_path, files)) == 350_000
