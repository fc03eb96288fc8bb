"""Whose turn it is, through HTTP: short prompts beside long ones, urgent requests before others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving, tiny_model

from pyllm.llm import LLM


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_first_token_of_a_short_request_while_a_long_prompt_is_read(model: Path) -> None:
    def load() -> LLM:  # small steps: the long prompt takes 119 of them
        return LLM(model, threads=1, max_batch_tokens=16, max_sequences=8, prefix_cache=False)

    with serving(load) as server:
        engine = server.service.models[0].engine
        llm = engine.llm
        submitted: dict[int, int] = {}  # id -> steps of the engine before
        first: dict[int, int] = {}  # id -> steps up to its first token
        submit, put = llm.submit, engine.put

        def noting_submit(job: Any, *args: Any, **options: Any) -> Any:
            steps = llm.stats()["steps"]
            generation = submit(job, *args, **options)
            submitted[generation.id] = steps
            return generation

        def noting_put(mail: Any) -> None:  # on the engine's thread, right after the step
            for event in mail[1]:
                first.setdefault(event.id, llm.stats()["steps"])
            put(mail)

        llm.submit, engine.put = noting_submit, noting_put  # type: ignore[method-assign]
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(complete, server, [7] * 1900)
            server.wait(lambda: llm.stats()["steps"] > 3)
            for _ in range(3):
                complete(server, [5] * 6)
            long.result(60)
        (start, *shorts) = submitted
        beside = [id for id in shorts if submitted[id] < first[start]]
        assert beside, "the long prompt was read before the short ones came"
        assert max(first[id] - submitted[id] for id in beside) <= 3
        assert first[start] - submitted[start] >= 119


def complete(server: Serving, prompt: list[int], tokens: int = 1, **fields: Any) -> None:
    fields |= {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    assert server.post("/v1/completions", fields).status == 200


def test_priority_overtakes(model: Path) -> None:
    with serving(lambda: LLM(model, threads=1, max_sequences=1)) as server, ThreadPoolExecutor(8) as pool:
        engine = server.service.models[0].engine
        ended: list[int] = []  # ids in the engine's order: clients may learn of it in another
        put = engine.put

        def noting_put(mail: Any) -> None:
            ended.extend(event.id for event in mail[1] if event.finish_reason)
            put(mail)

        engine.put = noting_put  # type: ignore[method-assign]
        running = pool.submit(complete, server, [7] * 20, 1900)
        server.wait(lambda: engine.running == 1)
        batch = [pool.submit(complete, server, [i] * 20, 20, priority=5) for i in range(4)]
        server.wait(lambda: engine.running == 5)
        complete(server, [9] * 20, 20, priority=-5)
        for answer in (running, *batch):
            answer.result(60)
        first, *others, urgent = sorted(ended)
        assert ended == [urgent, first, *others]  # even before the one that ran


def test_a_client_that_leaves_gives_its_blocks_back_within_a_step(model: Path) -> None:
    with serving(lambda: LLM(model, threads=1)) as server:
        engine = server.service.models[0].engine
        llm = engine.llm
        left: dict[str, int] = {}
        forget, gone = engine.forget, threading.Event()

        def noting_forget(id: int) -> None:
            forget(id)
            left["steps"] = llm.stats()["steps"]
            gone.set()

        body = b'{"prompt": "x", "max_tokens": 1900, "ignore_eos": true, "stream": true}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        with server.connect() as connection:
            connection.sendall(head + body)
            server.wait(lambda: llm.stats()["steps"] > 20)
            engine.forget = noting_forget  # type: ignore[method-assign]
        assert gone.wait(60)
        server.wait(lambda: llm.stats()["running"] == 0)
        stats = llm.stats()
        assert stats["steps"] <= left["steps"] + 1  # the one that ran
        assert stats["steps"] < 1900
        assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
