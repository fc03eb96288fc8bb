"""LLM over a scripted engine: batches, streams, stop strings, cancelling, closing, and engines that die."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_engine import FakeEngine, fake_llm

from pyllm import PyllmError, SamplingParams
from pyllm.llm import LLM
from pyllm.stop import StopMatcher

LONG = SamplingParams(max_tokens=None)


def echo(prompt: list[int]) -> list[int]:
    return prompt


def forever(prompt: list[int]) -> list[int]:
    return [97] * 100_000


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[LLM, FakeEngine]]]:
    made: list[LLM] = []

    def build(script: Callable[[list[int]], Any] = echo, pause: float = 0.0) -> tuple[LLM, FakeEngine]:
        engine = FakeEngine(script, pause)
        made.append(fake_llm(engine))
        return made[-1], engine

    yield build
    for llm in made:
        llm.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited 5 s in vain"
        time.sleep(0.002)


# --- generate -----------------------------------------------------------------------------------------------


def test_generate_keeps_the_order_of_prompts(make: Any) -> None:
    llm, engine = make(pause=0.001)
    prompts = ["three", "one", "", "seventeen letters"]
    prompts[2] = "x"
    results = llm.generate(prompts, LONG)
    assert [r.text for r in results] == prompts
    assert [bytes(r.token_ids).decode() for r in results] == prompts
    assert {r.finish_reason for r in results} == {"stop"}
    assert engine.most_at_once > 1


def test_shapes_of_prompts(make: Any) -> None:
    import numpy as np

    llm, _ = make()
    assert [r.text for r in llm.generate("ab")] == ["ab"]
    assert [r.text for r in llm.generate([97, 98])] == ["ab"]
    assert [r.text for r in llm.generate(np.array([97, 98]))] == ["ab"]
    assert [r.text for r in llm.generate([[97, 98], "c", (100,)])] == ["ab", "c", "d"]
    assert llm.generate([]) == []


def test_one_params_each(make: Any) -> None:
    llm, _ = make()
    results = llm.generate(["abc", "abc"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)])
    assert [(r.text, r.finish_reason, r.finish_detail) for r in results] == [
        ("a", "length", "max_tokens"),
        ("ab", "length", "max_tokens"),
    ]
    with pytest.raises(PyllmError, match="expected one, or 2 for 2 prompts, got 1"):
        llm.generate(["a", "b"], [LONG])


def test_n_answers_per_prompt(make: Any) -> None:
    llm, _ = make()
    results = llm.generate(["ab", "c"], SamplingParams(n=2))
    assert [(r.text, r.index) for r in results] == [("ab", 0), ("ab", 1), ("c", 0), ("c", 1)]


def test_usage_timings_and_logprobs(make: Any) -> None:
    llm, _ = make(pause=0.002)
    (r,) = llm.generate("abcd", SamplingParams(logprobs=True, top_logprobs=1))
    assert (r.usage.prompt_tokens, r.usage.completion_tokens, r.usage.cached_tokens) == (4, 4, 1)
    assert r.timings.load_s == 0.25
    assert r.timings.first_token_s > 0.001
    assert 0 < r.timings.prompt_tokens_per_second < 3 / 0.001
    assert 0 < r.timings.decode_tokens_per_second < 1 / 0.001
    assert r.logprobs is not None
    assert [(p.token_id, p.logprob, p.top) for p in r.logprobs] == [(t, -0.5, ((t, -0.5),)) for t in b"abcd"]
    assert llm.generate("ab")[0].logprobs is None


def test_an_error_names_its_prompt_and_cancels_the_others(make: Any) -> None:
    llm, engine = make(lambda p: [97, ValueError("no logits")] if p == [98] else forever(p), pause=0.001)
    with pytest.raises(PyllmError, match=r"^prompts\[1\]: no logits$"):
        llm.generate(["a", "b", "c"], LONG)
    assert len(engine.cancelled) == 2
    with pytest.raises(PyllmError, match=r"^no logits$"):
        llm.generate("b", LONG)
    with pytest.raises(PyllmError, match=r"^prompts\[2\]: prompt has 2000 tokens, the context 1000"):
        llm.generate(["a", "b", [1] * 2000], LONG)
    assert engine.idle()


@pytest.mark.parametrize("empty", ["", [[]], ["a", ""]])
def test_empty_prompts(make: Any, empty: Any) -> None:
    llm, engine = make()
    with pytest.raises(PyllmError, match="the prompt is empty"):
        llm.generate(empty)
    assert engine.idle()


def test_bad_params() -> None:
    for fields, says in [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "warm"}, "temperature: expected a number, got 'warm'"),
        ({"stop": ("",)}, "stop"),
        ({"stop": (1,)}, "stop"),
        ({"top_k": -3}, "top_k"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias"),
    ]:
        with pytest.raises(PyllmError, match=says):
            SamplingParams(**fields)  # type: ignore[arg-type]
    assert SamplingParams(stop="a").stop == ("a",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_token_ids_are_checked_against_the_vocabulary(make: Any) -> None:
    llm, _ = make()
    with pytest.raises(PyllmError, match="logit_bias: expected token ids from 0 to 255, got 256"):
        llm.generate("a", SamplingParams(logit_bias={256: 1.0}))
    with pytest.raises(PyllmError, match="stop_token_ids"):
        llm.stream("a", SamplingParams(stop_token_ids=(1000,)))


# --- streams ------------------------------------------------------------------------------------------------


def test_pieces_are_text_with_tokens(make: Any) -> None:
    llm, _ = make()
    pieces = list(llm.stream("héé", SamplingParams(logprobs=True)))
    assert pieces == ["h", "é", "é", ""]
    assert [p.token_ids for p in pieces] == [(104,), tuple("é".encode()), tuple("é".encode()), ()]
    assert [len(p.logprobs or ()) for p in pieces] == [1, 2, 2, 0]
    assert [p.finish_reason for p in pieces] == [None, None, None, "stop"]
    assert pieces[-1].completion is not None
    assert pieces[-1].completion.text == "".join(pieces) == "héé"


def test_half_a_character_at_the_end(make: Any) -> None:
    llm, _ = make()
    pieces = list(llm.stream([104, 0xC3]))
    assert "".join(pieces) == "h\ufffd"
    assert pieces[-1].finish_reason == "stop"


def test_leaving_a_stream_cancels(make: Any) -> None:
    llm, engine = make(forever)
    for piece in llm.stream("x", LONG):
        assert piece == "a"
        break
    gc.collect()
    assert engine.idle()
    assert len(engine.cancelled) == 1
    stream = llm.stream("x", LONG)
    next(stream)
    stream.close()
    assert engine.idle()
    llm.stream("x", LONG)  # never begun: never asked
    assert len(engine.cancelled) == 2


def test_streams_of_n_answers(make: Any) -> None:
    llm, _ = make()
    texts = ["", "", ""]
    for piece in llm.stream("abc", SamplingParams(n=3)):
        texts[piece.answer] += piece
    assert texts == ["abc"] * 3


def test_interrupt_cancels(make: Any) -> None:
    llm, engine = make(forever, pause=0.005)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate("a", LONG)
    assert engine.idle()
    assert len(engine.cancelled) == 1


def test_interrupt_while_nothing_comes(make: Any) -> None:
    llm, engine = make(echo, pause=1.0)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        llm.generate("abcdefgh", LONG)
    assert time.monotonic() - begun < 0.9
    assert engine.idle()


# --- chat ---------------------------------------------------------------------------------------------------


class UserTemplate:
    """The prompt is the last message; an answer ends where a user would speak."""

    stop = ("\nUser:",)

    def encode(self, messages: Any, tools: Any = None, **arguments: Any) -> list[int]:
        return list(f"{messages[-1]['content']}{tools or ''}{arguments.get('mood', '')}".encode())


def test_chat(make: Any) -> None:
    llm, _ = make()
    llm._template = UserTemplate()
    turn = [{"role": "user", "content": "Hi"}]
    assert llm.chat(turn).text == "Hi"
    assert llm.chat(turn, tools=[1], mood="!").text == "Hi[1]!"
    assert [a.index for a in llm.chat_all(turn, SamplingParams(n=2))] == [0, 1]
    long = [{"role": "user", "content": "x" * 700 + "\nUser: me"}]
    assert llm.chat(long).text == "x" * 700  # as long as the context lasts
    assert "".join(llm.stream_chat(long, SamplingParams(max_tokens=None, stop=("xx",)))) == ""
    assert llm.chat(long, SamplingParams(max_tokens=9)).finish_detail == "max_tokens"


# --- stop strings -------------------------------------------------------------------------------------------


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The twin: look at every prefix anew."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


def test_stop_matcher_equals_its_twin() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        letters = rng.choice(["ab", "abc", "aé€😀"])
        stops = ["".join(rng.choices(letters, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choices(letters, k=rng.randint(0, 25)))
        matcher, shown, at = StopMatcher(stops), "", 0
        while at < len(text):
            step = rng.randint(1, 4)
            shown += matcher.push(text[at : at + step])
            at += step
            expected, stop = cut(text[:at], stops)
            assert expected.startswith(shown)
            if stop is None:
                # Held back: no more than what may still become a stop string.
                held = expected[len(shown) :]
                assert held == "" or any(s.startswith(held) for s in stops)
        expected, stop = cut(text, stops)
        assert (shown + matcher.flush(), matcher.matched) == (expected, stop)


def test_stop_across_tokens(make: Any) -> None:
    llm, engine = make(lambda p: list(b"one\ntwo</s>three") + forever(p))
    for stream in (False, True):
        params = SamplingParams(stop=("</s>", "nowhere"), max_tokens=None)
        if stream:
            pieces = list(llm.stream("x", params))
            assert "".join(pieces) == "one\ntwo"
            completion = pieces[-1].completion
            assert completion is not None
        else:
            (completion,) = llm.generate("x", params)
        assert completion.text == "one\ntwo"
        assert (completion.finish_reason, completion.finish_detail) == ("stop", "</s>")
        assert bytes(completion.token_ids) == b"one\ntwo</s>"
    assert engine.idle()
    assert len(engine.cancelled) == 2


def test_what_was_held_comes_in_the_end(make: Any) -> None:
    llm, _ = make()
    pieces = list(llm.stream("ab</", SamplingParams(stop=("</s>",))))
    assert pieces == ["a", "b", "</"]
    assert (pieces[-1].finish_reason, pieces[-1].token_ids) == ("stop", (60, 47))


def test_stop_of_several_bytes(make: Any) -> None:
    llm, _ = make()
    (r,) = llm.generate("日本語です", SamplingParams(stop=("語で",)))
    assert r.text == "日本"


def test_no_stop_before_min_tokens(make: Any) -> None:
    llm, _ = make()
    (r,) = llm.generate("a.b.c", SamplingParams(stop=(".",), min_tokens=3))
    assert r.text == "a.b"


def test_stop_in_one_of_n_answers_keeps_the_rest(make: Any) -> None:
    llm, engine = make()
    results = llm.generate("ab.c", SamplingParams(stop=(".",), n=3))
    assert [r.text for r in results] == ["ab"] * 3
    assert engine.idle()


# --- threads ------------------------------------------------------------------------------------------------


def test_many_threads_one_llm(make: Any) -> None:
    llm, engine = make(pause=0.0005)
    wrong: list[str] = []

    def work(name: str) -> None:
        for i in range(10):
            text = f"{name}-{i}" * 3
            if (
                llm.generate([text, text + "!"], LONG)[1].text != text + "!"
                or "".join(llm.stream(text)) != text
            ):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(f"thread{i}",)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert not wrong
    assert not any(t.is_alive() for t in threads)
    assert engine.most_at_once > 2


def outcome(work: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_close_fails_what_runs(make: Any) -> None:
    llm, engine = make(forever, pause=0.001)
    thread, errors = outcome(lambda: llm.generate("a", LONG))
    wait_until(lambda: engine.steps > 3)
    llm.close()
    thread.join(5)
    assert not thread.is_alive()
    assert str(errors[0]) == "this LLM is closed"
    llm.close()
    with pytest.raises(PyllmError, match="closed"):
        llm.generate("a")


def test_close_while_idle_and_context_manager(make: Any) -> None:
    llm, _ = make()
    with llm as same:
        assert same.generate("a")[0].text == "a"
    with pytest.raises(PyllmError, match="closed"):
        llm.generate("a")


def test_close_frees_the_engine() -> None:
    engine = FakeEngine(echo)
    llm = fake_llm(engine)
    llm.generate("a")
    gone = weakref.ref(engine)
    del engine
    llm.close()
    gc.collect()
    assert gone() is None
    with pytest.raises(PyllmError, match="closed"):
        llm.stats()


def test_an_engine_that_dies_reaches_everyone(make: Any) -> None:
    llm, engine = make(forever, pause=0.001)
    waiting = [outcome(lambda: llm.generate("a", LONG)) for _ in range(3)]
    wait_until(lambda: engine.most_at_once == 3)
    engine.dies = RuntimeError("bad bug")
    for thread, errors in waiting:
        thread.join(5)
        assert not thread.is_alive()
        assert isinstance(errors[0], PyllmError)
        assert str(errors[0]) == "the engine stopped: bad bug"
        assert isinstance(errors[0].__cause__, RuntimeError)
    with pytest.raises(PyllmError, match="bad bug"):
        llm.generate("a")
    llm.close()


def test_a_dropped_llm_ends_its_thread() -> None:
    before = threading.active_count()
    llm = fake_llm(FakeEngine(echo))
    assert threading.active_count() == before + 1
    gone = weakref.ref(llm)
    stream = llm.stream("abc")
    assert next(stream) == "a"
    del llm
    assert gone() is not None  # the stream still needs it
    del stream
    gc.collect()
    assert gone() is None
    wait_until(lambda: threading.active_count() == before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork(make: Any) -> None:
    llm, _ = make()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            llm.generate("a")
        except PyllmError as error:
            code = 0 if "fork" in str(error) else 2
        llm.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert llm.generate("a")[0].text == "a"


def test_dry_breakers_become_tokens(make: Any) -> None:
    llm, _ = make()
    assert llm._breaker_tokens(("\n", "é")) == [[10], [0xC3, 0xA9]]
    assert llm.generate("a", SamplingParams(dry_multiplier=1.0))[0].text == "a"
