"""The server under load and faults: clients that leave, crawl or flood, an engine that dies, the end."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, fake_llm
from serving import Reply, Serving, serving, tiny_model

from pyllm.engine_thread import EngineEndedError
from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.server.run import listen

FOREVER = [97] * 1_000_000


@contextmanager
def scripted(
    script: Callable[[list[int]], Any] = lambda prompt: prompt, pause: float = 0.0, **options: Any
) -> Iterator[tuple[Serving, FakeEngine]]:
    engine = FakeEngine(script, pause)
    with serving(lambda: fake_llm(engine), **options) as server:
        yield server, engine


def head(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def ask(server: Serving, **fields: Any) -> socket.socket:
    """Sends a request for an endless answer, and returns the connection."""
    body = json.dumps({"prompt": "x", "max_tokens": 1_000_000, **fields}).encode()
    connection = server.connect()
    connection.sendall(head("/v1/completions", len(body)) + body)
    return connection


def at_rest(server: Serving, engine: FakeEngine) -> Callable[[], bool]:
    return lambda: engine.idle() and server.service.admission.taken == 0


# --- clients that leave ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_its_answers(stream: bool, n: int) -> None:
    with scripted(lambda p: FOREVER, pause=0.002) as (server, engine):
        connection = ask(server, stream=stream, n=n)
        server.wait(lambda: engine.steps > 3)
        if stream:
            assert b"200 OK" in connection.recv(4096)
        connection.close()
        server.wait(at_rest(server, engine))
        assert len(engine.cancelled) == 1
        assert server.service.models[0].engine.running == 0
        server.wait(lambda: any(" 499 " in line for line in server.lines))
        assert generated(server) == answered(server) >= 3 * n


def generated(server: Serving) -> int:
    """As the metrics count it."""
    text = server.service.metrics.text().decode()
    return int(float(re.findall(r'^pyllm_generation_tokens_total\{model="tiny"\} (.*)$', text, re.M)[0]))


def answered(server: Serving) -> int:
    """As the log tells it."""
    return sum(map(int, re.findall(r" answer (\d+)", server.log.getvalue())))


def test_a_client_that_leaves_ends_the_scoring_of_its_prompt() -> None:
    with scripted() as (server, engine):
        begun, ended = threading.Event(), threading.Event()

        def slow(tokens: list[int], **options: Any) -> Iterator[Any]:
            try:
                for _ in tokens:
                    begun.set()
                    time.sleep(0.05)
                    yield np.zeros((1, 256), np.float32)
            finally:
                ended.set()

        server.service.models[0].llm.logits_in_parts = slow  # type: ignore[method-assign, assignment]
        connection = ask(server, prompt="x" * 900, echo=True, logprobs=1, max_tokens=0)
        assert begun.wait(60)
        connection.close()
        assert ended.wait(20)  # all of it would take 45 s
        server.wait(at_rest(server, engine))


def test_random_disconnects_leak_nothing(tmp_path: Any) -> None:
    path = tiny_model(tmp_path)
    with serving(lambda: LLM(path, threads=1, context=256), log_format="none") as server:
        llm = server.service.models[0].llm
        source = random.Random(1)
        assert server.post("/v1/completions", {"prompt": "warm", "max_tokens": 2}).status == 200
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

        def once(seed: int) -> None:
            choice = random.Random(seed)
            body = json.dumps(
                {
                    "prompt": [choice.choice(["a", "some longer words ", "x" * 100])]
                    * choice.choice([1, 1, 3]),
                    "max_tokens": choice.randint(1, 60),
                    "stream": choice.random() < 0.7,
                    "n": choice.choice([1, 1, 2]),
                    "ignore_eos": True,
                }
            ).encode()
            request = head("/v1/completions", len(body)) + body
            with server.connect() as connection:
                connection.sendall(request[: choice.choice([len(request)] * 4 + [20, len(request) - 5])])
                for _ in range(choice.randint(0, 6)):
                    connection.settimeout(choice.random() * 0.02 + 0.001)
                    try:
                        if not connection.recv(choice.choice([10, 4096])):
                            break
                    except TimeoutError:
                        pass
                if choice.random() < 0.5:  # a reset rather than an orderly end
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(once, [source.randrange(2**32) for _ in range(300)]))
        server.wait(lambda: server.service.admission.taken == 0)
        server.wait(lambda: llm.stats()["running"] == llm.stats()["waiting"] == 0)
        stats = llm.stats()
        assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
        assert server.service.models[0].engine.running == 0
        assert not llm._thread._boxes
        server.wait(lambda: not server.server.server_state.connections)
        if descriptors:
            server.wait(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert server.post("/v1/completions", {"prompt": "still here", "max_tokens": 2}).status == 200


def test_a_client_that_does_not_read_is_dropped_and_stalls_nobody() -> None:
    with scripted(lambda p: FOREVER if p == [120] else p, stall_timeout=0.3, max_n=8) as (server, engine):
        with server.connect() as connection:
            body = json.dumps({"prompt": "x", "max_tokens": 1_000_000, "stream": True, "n": 8}).encode()
            connection.sendall(head("/v1/completions", len(body)) + body)
            server.wait(lambda: engine.steps > 10)
            for _ in range(5):
                assert server.post("/v1/completions", {"prompt": "abc"}).json["choices"][0]["text"] == "abc"
            server.wait(at_rest(server, engine))
        assert engine.cancelled


# --- too much -------------------------------------------------------------------------------------------------


def test_overload_is_told_at_once_and_nothing_fails() -> None:
    with scripted(lambda p: [97] * 20, pause=0.005, max_sequences=2, max_queue=4) as (server, engine):

        def one(i: int) -> Reply:
            return server.post("/v1/completions", {"prompt": "x", "max_tokens": 20, "stream": i % 2 == 0})

        with ThreadPoolExecutor(40) as pool:
            replies = list(pool.map(one, range(120)))
        assert {reply.status for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.error["code"] == "server_busy"
                assert reply.error["type"] == "rate_limit_error"
        assert engine.most_at_once <= 6
        server.wait(at_rest(server, engine))
        assert one(0).status == 200
        refused = [float(took) for took in re.findall(r" 429 ([\d.]+) s;", server.log.getvalue())]
        assert statistics.median(refused) < 0.05


def test_answers_count_towards_the_bound_not_requests() -> None:
    with scripted(lambda p: [97] * 5, max_sequences=2, max_queue=2) as (server, engine):
        assert server.post("/v1/completions", {"prompt": "x", "n": 4}).status == 200
        reply = server.post("/v1/completions", {"prompt": ["x", "y"], "n": 3})
        assert reply.status == 429
        server.wait(at_rest(server, engine))


@pytest.fixture(scope="module")
def narrow() -> Iterator[Serving]:
    bounds: dict[str, Any] = {"max_body": 10_000, "max_headers": 20, "max_head": 4096, "receive_timeout": 0.4}
    with scripted(**bounds) as (server, _):
        yield server


def test_bodies_that_are_too_large(narrow: Serving) -> None:
    body = json.dumps({"prompt": "x" * 20_000}).encode()
    assert narrow.post("/v1/completions", body).status == 413
    claimed = narrow.post("/v1/completions", b"{}", **{"content-length": "9" * 30})
    assert claimed.status in (400, 413)
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with narrow.connect() as connection:
        connection.sendall(chunked + chunk * 3)
        assert Reply(connection.recv(65536)).status == 413


def test_heads_that_are_too_large(narrow: Serving) -> None:
    many = {f"x-{i}": "1" for i in range(30)}
    assert narrow.get("/health", **many).status == 431
    assert narrow.get("/health", **{"x-long": "a" * 5000}).status == 431
    assert narrow.get("/health?" + "a" * 5000).status == 431
    reply = narrow.get("/health", **{"x-long": "a" * 5000})
    assert "larger than 4096 bytes" in reply.error["message"]


def test_requests_that_do_not_come(narrow: Serving) -> None:
    for sent in (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        assert Reply(narrow.raw(sent)).status == 408
    reply = Reply(narrow.raw(head("/v1/completions", 100) + b'{"prompt":'))
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    assert "did not arrive within 0.4 s" in reply.error["message"]
    narrow.wait(lambda: narrow.service.admission.taken == 0)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the request is empty"),
        (b"   ", "the request is empty"),
        (b"{", "the request is not JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'"text"', "expected a JSON object, found str"),
        (b'{"prompt": "x"} trailing', "the request is not JSON"),
        (b'{"prompt": NaN}', "the request is not JSON"),
        (b'{"prompt": "\xff\xfe"}', "the request is not JSON"),
        (b'{"prompt": "\\ud800"}', "the request is not JSON"),
        (b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}", "nested more than 64 deep"),
        (b'{"prompt": "x", "y": ' + b"[" * 64 + b"]" * 64 + b"}", "nested more than 64 deep"),
        (b'{"prompt": "x", "y": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}", "nested more than 64 deep"),
        (b'{"prompt": "x", "max_tokens": 1' + b"0" * 5000 + b"}", "out of range"),
        (b'{"prompt": "x", "temperature": 1e999}', ""),
        (b'{"prompt": "x", "stop": {"a": 1}}', "stop: expected"),
    ],
)
def test_hostile_json(narrow: Serving, body: bytes, says: str) -> None:
    reply = narrow.post("/v1/completions", body)
    assert reply.status == 400
    assert says in reply.error["message"]


def test_not_http(narrow: Serving) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert Reply(narrow.raw(garbage)).status == 400
    assert narrow.post("/v1/completions", b"\x1f\x8b", **{"content-encoding": "gzip"}).status == 415
    assert narrow.get("/v1/completions").status == 405
    assert narrow.get("/nothing").error["message"] == "Not Found"
    assert narrow.get("/health").status == 200


# --- the engine -----------------------------------------------------------------------------------------------


def test_a_dead_engine_fails_everybody_and_says_why() -> None:
    with scripted(lambda p: FOREVER, pause=0.002) as (server, engine):
        replies: list[Reply] = []

        def post(stream: bool) -> None:
            replies.append(
                server.post("/v1/completions", {"prompt": "x", "max_tokens": 10**6, "stream": stream})
            )

        threads = [threading.Thread(target=post, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        server.wait(lambda: engine.most_at_once == 2)
        engine.dies = RuntimeError("out of magic")
        for thread in threads:
            thread.join(60)
        streamed, whole = sorted(replies, key=lambda reply: reply.status)
        assert (streamed.status, whole.status) == (200, 503)
        assert streamed.events[-1]["error"]["message"] == "the engine stopped: out of magic"
        assert b"[DONE]" not in streamed.body
        assert whole.error["message"] == "the engine stopped: out of magic"
        assert (server.get("/ready").status, server.get("/health").status) == (503, 503)
        assert server.get("/health").json == {"status": "broken", "reason": "the engine stopped: out of magic"}
        assert server.post("/v1/completions", {"prompt": "x"}).status == 503
        assert server.get("/metrics").status == 200
        assert server.service.admission.taken == 0


@pytest.mark.parametrize("error", [RuntimeError("out of magic"), MemoryError(), SystemExit(3)], ids=repr)
def test_nobody_waits_for_a_dead_engine_longer_than_five_seconds(error: BaseException) -> None:
    fields = {"prompt": "x", "max_tokens": 10**6}
    with scripted(lambda p: FOREVER, pause=0.002) as (server, engine), ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(server.post, "/v1/completions", {**fields, "stream": i % 2 == 0}) for i in range(8)
        ]
        server.wait(lambda: engine.most_at_once == 8)
        engine.dies = error
        end = time.monotonic() + 5
        replies = [reply.result(end - time.monotonic()) for reply in waiting]
        assert sorted(reply.status for reply in replies) == [200] * 4 + [503] * 4
        assert all("error" in reply.events[-1] for reply in replies if reply.status == 200)
        for path in ("/ready", "/health"):
            reply = server.get(path)
            assert (reply.status, reply.json["status"]) == (503, "broken")
            assert reply.json["reason"] == f"the engine stopped: {error or type(error).__name__}"
        assert time.monotonic() < end


def test_an_engine_that_dies_idle_is_told_within_five_seconds() -> None:
    with scripted() as (server, engine):
        assert server.get("/ready").status == 200
        engine.dies = RuntimeError("out of magic")
        engine.wake()
        server.wait(lambda: server.get("/ready").status == server.get("/health").status == 503, seconds=5)


def test_an_engine_that_dies_while_a_prompt_is_scored() -> None:
    with scripted() as (server, _):

        def dead(*args: Any, **options: Any) -> Iterator[Any]:
            raise EngineEndedError("the engine stopped: out of magic")
            yield

        server.service.models[0].llm.logits_in_parts = dead  # type: ignore[method-assign]
        reply = server.post("/v1/completions", {"prompt": "x", "echo": True, "logprobs": 1, "max_tokens": 0})
        assert (reply.status, reply.error["message"]) == (503, "the engine stopped: out of magic")


def test_a_mistake_of_ours_fails_one_answer_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        scripted(lambda p: [97, 1000] if p == [120] else [98] * 200, pause=0.002) as (server, engine),
        ThreadPoolExecutor(1) as pool,
    ):
        other = pool.submit(server.post, "/v1/completions", {"prompt": "y", "max_tokens": 200})
        server.wait(lambda: engine.steps > 3)
        assert server.post("/v1/completions", {"prompt": "x"}).status == 500
        assert other.result(60).json["choices"][0]["text"] == "b" * 200
        server.wait(at_rest(server, engine))
    assert "bytes must be in range" in capfd.readouterr().err


def test_an_answer_that_fails() -> None:
    with scripted(lambda p: [97, ValueError("logits hold nan")]) as (server, _):
        assert server.post("/v1/completions", {"prompt": "x"}).status == 500
        events = server.post("/v1/completions", {"prompt": "x", "stream": True}).events
        assert events[0]["choices"][0]["text"] == "a"
        assert events[-1]["error"]["message"] == "logits hold nan"


# --- beginning and end ----------------------------------------------------------------------------------------


def test_while_loading() -> None:
    loaded = threading.Event()

    def load() -> LLM:
        loaded.wait(60)
        return fake_llm(FakeEngine(lambda p: p))

    with serving(load, wait=False) as server:
        assert server.get("/health").json["status"] == "loading"
        assert (server.get("/health").status, server.get("/ready").status) == (200, 503)
        reply = server.post("/v1/completions", {"prompt": "x"})
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        (card,) = server.get("/v1/models").json["data"]
        assert (card["id"], card["state"]) == ("tiny", "loading")
        assert server.get("/v1/models/tiny").json["state"] == "loading"
        loaded.set()
        server.wait_ready()
        assert server.get("/ready").status == 200


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def load() -> LLM:
        raise PyllmError("bad.gguf: not a GGUF file")

    with serving(load) as server:
        server.thread.join(60)
        assert str(server.server.error) == "bad.gguf: not a GGUF file"


def test_draining_lets_answers_finish() -> None:
    with scripted(lambda p: [97] * 50, pause=0.01) as (server, engine):
        replies: list[Reply] = []
        thread = threading.Thread(
            target=lambda: replies.append(
                server.post("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 50})
            )
        )
        thread.start()
        server.wait(lambda: engine.steps > 5)
        server.stop()
        thread.join(60)
        assert len(replies[0].events) == 50
        assert replies[0].events[-1]["choices"][0]["finish_reason"] == "length"
        assert replies[0].body.endswith(b"data: [DONE]\n\n")
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_draining_has_an_end() -> None:
    with scripted(lambda p: FOREVER, pause=0.005, drain_timeout=0.3) as (server, engine):
        replies: list[Reply] = []

        def post(stream: bool) -> None:
            replies.append(
                server.post("/v1/completions", {"prompt": "x", "max_tokens": 10**6, "stream": stream})
            )

        threads = [threading.Thread(target=post, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        server.wait(lambda: engine.most_at_once == 2)
        server.stop()
        for thread in threads:
            thread.join(60)
        streamed, whole = sorted(replies, key=lambda reply: reply.status)
        assert (
            streamed.events[-1]["error"]["message"] == "the server was stopped before the answer was complete"
        )
        assert whole.status == 503
        assert server.server.error is None
        assert generated(server) == answered(server) >= len(streamed.events) - 1
        assert all(re.search(r" answer [1-9]", line) for line in server.lines if "POST" in line)


def test_a_port_in_use_is_told() -> None:
    with (
        scripted() as (server, _),
        pytest.raises(PyllmError, match=f"port {server.port} of 127.0.0.1 is in use"),
    ):
        listen("127.0.0.1", server.port)
    with pytest.raises(PyllmError, match=r"--host no\.such\.host\.invalid: no such address"):
        listen("no.such.host.invalid", 0)


def test_events_of_a_step_wake_the_loop_once() -> None:
    with scripted(lambda p: [97] * 30, pause=0.002) as (server, engine):
        async_engine = server.service.models[0].engine
        mails = []
        put = async_engine.put
        async_engine.put = lambda mail: (mails.append(mail), put(mail))[1]  # type: ignore[assignment, method-assign, func-returns-value]
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda i: server.post("/v1/completions", {"prompt": "x", "n": 4, "stream": True}), range(8)
                )
            )
        assert len(mails) <= engine.steps
        assert max(len(mail[1]) for mail in mails if isinstance(mail, tuple)) >= 8
