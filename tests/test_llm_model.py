"""LLM over the real engine and a tiny model with random weights."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyllm import LLM, PyllmError, SamplingParams
from pyllm.shapes import write_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
PROMPTS = ["Hello there", "The quick brown fox", "x", "One two three four five six seven eight nine ten. " * 4]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder / "tiny.gguf", "llama", dim=64, ffn=128, quant="Q8_0", std=0.3, context=256)


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, threads=2) as llm:
        yield llm


def test_greedy_is_the_argmax_of_the_logits(llm: LLM) -> None:
    (answer,) = llm.generate("Hello there", GREEDY)
    prompt = llm.tokenizer.encode("Hello there")
    logits = llm.logits([*prompt, *answer.token_ids])
    assert logits.shape == (len(prompt) + 12, llm.config.vocab)
    assert logits.dtype == np.float32
    ends = [*llm.tokenizer.stop_ids]
    logits[:, ends] = -np.inf
    assert logits[len(prompt) - 1 : -1].argmax(axis=1).tolist() == list(answer.token_ids)
    assert answer.text == llm.tokenizer.decode(answer.token_ids, skip_special=True)
    assert (answer.finish_reason, answer.finish_detail) == ("length", "max_tokens")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 12)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1.5, "seed": 9, "n": 2}], ids=str)
def test_neighbours_change_nothing(llm: LLM, params: dict[str, Any]) -> None:
    params = {"max_tokens": 12, "ignore_eos": True, "logprobs": True, "top_logprobs": 3} | params
    sampling = SamplingParams(**params)
    alone = [llm.generate(prompt, sampling) for prompt in PROMPTS]
    together = llm.generate(PROMPTS, sampling)
    n = sampling.n
    for i, answers in enumerate(alone):
        for a, b in zip(answers, together[i * n : i * n + n], strict=True):
            # Bit for bit, log-probabilities included.
            assert (a.token_ids, a.logprobs, a.text, a.index) == (b.token_ids, b.logprobs, b.text, b.index)
    if n == 2:
        assert alone[0][0].token_ids != alone[0][1].token_ids
        single = llm.generate(PROMPTS[0], SamplingParams(**params | {"n": 1}))
        assert single[0].token_ids == alone[0][0].token_ids


def test_logprobs_are_those_of_the_logits(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, seed=2, logprobs=True, top_logprobs=4, ignore_eos=True)
    (answer,) = llm.generate("abc", params)
    prompt = llm.tokenizer.encode("abc")
    rows = llm.logits([*prompt, *answer.token_ids])[len(prompt) - 1 : -1].astype(np.float64)
    logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    assert answer.logprobs is not None
    for row, found in zip(logs, answer.logprobs, strict=True):
        assert found.logprob == pytest.approx(row[found.token_id], abs=1e-4)
        assert [token for token, _ in found.top] == np.argsort(-row, kind="stable")[:4].tolist()


def test_a_prompt_seen_before_is_not_computed_again(path: Path) -> None:
    with LLM(path, threads=1) as llm:
        first = llm.generate(PROMPTS[3], GREEDY)[0]
        again = llm.generate(PROMPTS[3], GREEDY)[0]
        assert (first.usage.cached_tokens, first.token_ids) == (0, again.token_ids)
        assert again.usage.cached_tokens >= 16
    with LLM(path, threads=1, prefix_cache=False) as llm:
        assert [llm.generate(PROMPTS[3], GREEDY)[0].usage.cached_tokens for _ in range(2)] == [0, 0]


def test_stream_gives_what_generate_gives(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[1], GREEDY)
    pieces = list(llm.stream(PROMPTS[1], GREEDY))
    assert "".join(pieces) == whole.text
    assert tuple(t for piece in pieces for t in piece.token_ids) == whole.token_ids
    assert pieces[-1].completion is not None
    assert pieces[-1].completion.usage.completion_tokens == 12


def test_a_stop_string_ends_the_answer(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[1], GREEDY)
    assert len(whole.text) >= 4
    stop = whole.text[2:4]
    at = whole.text.index(stop)
    (cut,) = llm.generate(
        PROMPTS[1], SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, stop=(stop,))
    )
    assert (cut.text, cut.finish_reason, cut.finish_detail) == (whole.text[:at], "stop", stop)


def test_a_stop_token_ends_the_answer(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[0], GREEDY)
    stop = whole.token_ids[5]
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, stop_token_ids=(stop,))
    (cut,) = llm.generate(PROMPTS[0], params)
    assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[: whole.token_ids.index(stop)], "stop")


def test_blocks_come_back_after_a_cancel(llm: LLM) -> None:
    for _ in range(3):
        stream = llm.stream(PROMPTS[3], SamplingParams(max_tokens=None, ignore_eos=True))
        next(stream)
        stream.close()
    llm.generate("a", GREEDY)  # at least one step later
    stats = llm.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]


def test_the_context_ends_an_answer_and_says_so(llm: LLM) -> None:
    params = SamplingParams(max_tokens=None, temperature=0.0, ignore_eos=True)
    (answer,) = llm.generate([1] * 250, params)
    assert (answer.finish_reason, answer.finish_detail) == ("length", "context")
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens in (256, 257)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [([1] * 300, r"300.*256"), ([10**6], r"1000000"), ([-1], r"-1"), ("", "empty"), ([], "empty")],
    ids=["too long", "id too large", "negative id", "no text", "no tokens"],
)
def test_prompts_that_cannot_run(llm: LLM, prompt: Any, says: str) -> None:
    with pytest.raises(PyllmError, match=says):
        list(llm.stream(prompt, GREEDY))
    if prompt:
        with pytest.raises(PyllmError, match=says):
            llm.logits(prompt)
    with pytest.raises(PyllmError, match=rf"^prompts\[1\]: .*{says}"):
        llm.generate(["fine", prompt], GREEDY)
    assert llm.generate("fine", GREEDY)[0].finish_reason == "length"


def test_every_sampling_parameter_at_once(llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=20,
        min_tokens=3,
        temperature=0.9,
        top_k=50,
        top_p=0.95,
        min_p=0.01,
        typical_p=0.98,
        top_n_sigma=3.0,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        penalty_last_n=64,
        dry_multiplier=0.8,
        xtc_probability=0.5,
        logit_bias={5: -float("inf"), 6: 1.0},
        seed=3,
    )
    first, second = (llm.generate(PROMPTS[0], params)[0] for _ in range(2))
    assert first.token_ids == second.token_ids
    assert 5 not in first.token_ids
    mirostat = llm.generate(PROMPTS[0], SamplingParams(max_tokens=8, mirostat_tau=4.0, ignore_eos=True))[0]
    assert mirostat.usage.completion_tokens == 8


def test_several_threads(llm: LLM) -> None:
    expected = [answer.token_ids for answer in llm.generate(PROMPTS, GREEDY)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if llm.generate(PROMPTS[i], GREEDY)[0].token_ids != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong
    assert not any(t.is_alive() for t in threads)


def test_an_open_llm_does_not_hold_up_the_end_of_a_program(path: Path) -> None:
    """Neither idle, nor in the middle of an answer, nor with an exception."""
    for last in ("", "next(s)", "next(s); raise SystemExit(3)"):
        program = (
            "from pyllm import LLM, SamplingParams\n"
            f"llm = LLM({str(path)!r})\n"
            "s = llm.stream('abc', SamplingParams(max_tokens=None, ignore_eos=True))\n"
            f"{last}\n"
        )
        # As this test finds pyllm, from a folder that is not the checkout.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=env,
            cwd=path.parent,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (3 if "raise" in last else 0, "")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    for name, says in [("text.gguf", "GGUF"), ("missing.gguf", "missing.gguf"), (".", str(tmp_path))]:
        with pytest.raises(PyllmError, match=says):
            LLM(tmp_path / name)
    assert not [t for t in threading.enumerate() if t.name == "pyllm-load"]
