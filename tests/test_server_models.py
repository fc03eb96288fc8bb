"""Several models in one server: loaded when asked for, unloaded when idle or when memory is short."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_engine import FakeEngine, fake_llm
from scripted import FakeTemplate
from serving import Reply, Serving, serving_all

from pyllm.errors import PyllmError
from pyllm.llm import LLM, Config
from pyllm.server.room import planned_kv
from pyllm.server.served import Source

FOREVER = 1_000_000


class Shelf:
    """Fake models: each answers with its own name. `gates`: what loading waits for."""

    def __init__(self, *names: str, size: int = 0) -> None:
        self.loads: list[str] = []
        self.engines: dict[str, FakeEngine] = {}
        self.gates: dict[str, threading.Event] = {}
        self.failures: dict[str, Exception] = {}
        config = Config("fake", 1000, 256, 1, 1, 1)
        self.sources = [
            Source(name, lambda kv, n=name: self._load(n), {}, f"/secret/{name}.gguf", config, 1000, size, 100)
            for name in names
        ]

    def _load(self, name: str) -> LLM:
        self.loads.append(name)
        if gate := self.gates.get(name):
            gate.wait(60)
        if failure := self.failures.get(name):
            raise failure
        self.engines[name] = FakeEngine(lambda prompt: (name.encode() + b" ") * FOREVER, pause=0.001)
        llm = fake_llm(self.engines[name])
        llm._template = FakeTemplate()  # type: ignore[assignment]
        return llm


@contextlib.contextmanager
def shelf(*names: str, size: int = 0, **options: Any) -> Iterator[tuple[Serving, Shelf]]:
    models = Shelf(*names, size=size)
    with serving_all(models.sources, **options) as server:
        yield server, models


def ask(server: Serving, model: str | None, tokens: int = 4, **fields: Any) -> Reply:
    return server.post("/v1/completions", {"model": model, "prompt": "x", "max_tokens": tokens, **fields})


def text(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    found: str = reply.json["choices"][0]["text"]
    return found


def states(server: Serving) -> dict[str, str]:
    return {card["id"]: card["state"] for card in server.get("/v1/models").json["data"]}


def in_use(server: Serving, name: str, count: int) -> Any:
    return lambda: server.service.registry.entries[name].users == count


@contextlib.contextmanager
def endless(server: Serving, model: str) -> Iterator[None]:
    """An answer that goes on for as long as this lasts."""
    body = json.dumps({"model": model, "prompt": "x", "max_tokens": 10**6, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + body)
        assert b"200 OK" in connection.recv(64)
        stop = threading.Event()

        def read() -> None:
            connection.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1 << 20):
                        return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            stop.set()
            reader.join()


def test_models_are_loaded_when_asked_for() -> None:
    with shelf("one", "two") as (server, models):
        assert (server.get("/ready").status, server.get("/health").json) == (200, {"status": "ok"})
        assert states(server) == {"one": "unloaded", "two": "unloaded"}
        card = server.get("/v1/models/two").json
        assert (card["max_model_len"], card["meta"]["n_vocab"], card["state"]) == (1000, 256, "unloaded")
        assert models.loads == []
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda i: text(ask(server, "two")), range(8))) == {"two "}
        assert models.loads == ["two"]
        assert text(ask(server, None)) == "one "  # the first where none is named
        assert states(server) == {"one": "loaded", "two": "loaded"}
        for name in ("three", "/secret/one.gguf", "../one", "one.gguf"):
            reply = ask(server, name)
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
            assert "expected one, two" in reply.error["message"]
        assert models.loads == ["two", "one"]


def test_requests_never_mix() -> None:
    names = ("one", "two", "six")
    with shelf(*names) as (server, _):

        def one(i: int) -> tuple[str, str, str]:
            name = names[i % 3]
            reply = ask(server, name, tokens=8 + i, stream=i % 2 == 0)
            if i % 2:
                return name, text(reply), reply.json["model"]
            return name, "".join(e["choices"][0]["text"] for e in reply.events), reply.events[-1]["model"]

        with ThreadPoolExecutor(24) as pool:
            for i, (name, got, said) in enumerate(pool.map(one, range(48))):
                assert (got, said) == ((f"{name} " * 30)[: 8 + i], name)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize"])
def test_every_endpoint_loads(path: str) -> None:
    fields: dict[str, Any] = {"model": "two", "max_tokens": 3, "max_output_tokens": 16, "content": "x"}
    fields |= {"input": "x"} if path == "/v1/responses" else {}
    fields |= {"messages": [{"role": "user", "content": "x"}]} if path != "/tokenize" else {}
    with shelf("one", "two") as (server, models):
        reply = server.post(path, fields)
        assert (reply.status, models.loads) == (200, ["two"]), reply.body
        server.wait(in_use(server, "two", 0))


def test_unloaded_after_a_while_and_loaded_again() -> None:
    with shelf("one", "two", keep_alive=0.3) as (server, models):
        with endless(server, "two"):
            assert text(ask(server, "one")) == "one "
            server.wait(lambda: states(server) == {"one": "unloaded", "two": "loaded"})
            server.wait(lambda: models.engines["two"].steps > 500)  # in use it stays, however long
            assert states(server)["two"] == "loaded"
        server.wait(lambda: states(server)["two"] == "unloaded")
        assert any("one is unloaded: nobody has used it for 0.3 s" in line for line in server.lines)
        assert text(ask(server, "one")) == "one "
        assert models.loads == ["two", "one", "one"]
        assert 'pyllm_model_loads_total{model="one"} 2.0' in server.get("/metrics").body.decode()


def test_one_model_alone_stays_or_goes_as_told() -> None:
    with shelf("one") as (server, models):
        assert models.loads == ["one"]
        assert server.service.registry.resident
    with shelf("one", keep_alive=0.2) as (server, models):
        server.wait(lambda: states(server) == {"one": "unloaded"})
        assert server.get("/ready").status == 200
        assert text(ask(server, "one")) == "one "
        assert models.loads == ["one", "one"]


# --- memory ---------------------------------------------------------------------------------------------------


def test_the_one_used_longest_ago_makes_room() -> None:
    with shelf("one", "two", "six", size=900, memory=lambda: 2500) as (server, models):
        for name in ("one", "two", "one", "six"):
            ask(server, name)
        assert states(server) == {"one": "loaded", "two": "unloaded", "six": "loaded"}
        assert "pyllm: two is unloaded: to make room for six" in server.lines
        with endless(server, "one"):
            ask(server, "two")
            assert states(server) == {"one": "loaded", "two": "loaded", "six": "unloaded"}
        assert models.loads == ["one", "two", "six", "two"]


def test_who_finds_all_in_use_waits_and_nobody_starves() -> None:
    with shelf("one", "two", size=900, memory=lambda: 1500) as (server, models), ThreadPoolExecutor(2) as pool:
        with endless(server, "one"):
            waits = pool.submit(ask, server, "two")
            server.wait(lambda: server.service.registry.entries["one"].leaving)
            behind = pool.submit(ask, server, "one")  # after "two": it takes no more requests
            server.wait(lambda: len(server.service.registry.entries["one"].waiting) == 1)
            assert not waits.done()
        assert text(waits.result(60)) == "two "
        assert text(behind.result(60)) == "one "
        assert models.loads == ["one", "two", "one"]


def test_who_waits_too_long_is_told() -> None:
    with shelf("one", "two", size=900, memory=lambda: 1500, room_timeout=0.3) as (server, _):
        with endless(server, "one"):
            reply = ask(server, "two")
            assert (reply.status, reply.error["code"]) == (503, "model_does_not_fit")
            assert int(reply.headers["retry-after"]) >= 1
            assert text(ask(server, "one")) == "one "
        assert text(ask(server, "two")) == "two "


def test_what_never_fits_leaves_the_others_alone() -> None:
    with shelf("one", size=500) as (_, small):
        pass
    large = Shelf("two", size=5000)
    with serving_all([*small.sources, *large.sources], memory=lambda: 1000) as server:
        assert text(ask(server, "one")) == "one "
        reply = ask(server, "two")
        assert reply.status == 503
        assert "two could not be loaded: it needs" in reply.error["message"]
        assert states(server) == {"one": "loaded", "two": "failed"}
        assert large.loads == []


def test_planned_memory() -> None:
    config = Config("fake", 1000, 256, 1, 1, kv_bytes_per_token=10)
    source = Source("m", lambda kv: fake_llm(FakeEngine(lambda p: p)), {}, "", config, 1000, size=50_000)
    assert planned_kv(source, 10**6, models=2, sequences=64) == 125_000  # half of a quarter
    assert planned_kv(source, 10**8, models=2, sequences=64) == 640_000  # all contexts
    assert planned_kv(source, 60_000, models=2, sequences=64) == 10_000  # one context, more than the quarter
    assert planned_kv(source, 50_500, models=2, sequences=64) == 500  # what is left
    assert planned_kv(source, 0, models=2, sequences=64) == 0  # nobody knows
    with pytest.raises(PyllmError, match="it needs"):
        planned_kv(source, 50_100, models=2, sequences=64)


# --- faults ---------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_has_its_own_error() -> None:
    with shelf("one", "two") as (server, models):
        models.failures["two"] = PyllmError("/secret/two.gguf: not a GGUF file")
        assert text(ask(server, "one")) == "one "
        for _ in range(2):  # at once the second time
            reply = ask(server, "two")
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            assert reply.error["message"] == "model: two could not be loaded: two: not a GGUF file"
            assert reply.error["code"] == "model_not_loaded"
        assert models.loads == ["one", "two"]
        assert "pyllm: two could not be loaded: /secret/two.gguf: not a GGUF file" in server.lines
        assert states(server) == {"one": "loaded", "two": "failed"}
        assert server.get("/ready").status == 200
        assert text(ask(server, "one")) == "one "
        del models.failures["two"]
        server.service.registry.entries["two"].failed_at -= 10
        assert text(ask(server, "two")) == "two "
        assert states(server) == {"one": "loaded", "two": "loaded"}


def test_an_engine_that_dies_is_replaced_and_the_others_go_on() -> None:
    with shelf("one", "two") as (server, models):
        ask(server, "two")
        with endless(server, "one"):
            steps = models.engines["one"].steps
            models.engines["two"].dies = RuntimeError("out of magic")
            models.engines["two"].wake()
            server.wait(lambda: states(server)["two"] == "failed")
            assert "out of magic" in server.get("/v1/models/two").json["reason"]
            assert server.get("/ready").status == 200
            assert text(ask(server, "two")) == "two "
            server.wait(lambda: models.engines["one"].steps > steps + 10)
        assert states(server) == {"one": "loaded", "two": "loaded"}


def test_waiting_for_a_model_is_bounded_and_ends_when_the_client_leaves() -> None:
    with shelf("one", "two", max_sequences=2, max_queue=2) as (server, models):
        gate = models.gates["two"] = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(ask, server, "two") for _ in range(3)]
            server.wait(lambda: len(server.service.registry.entries["two"].waiting) == 3)
            assert states(server)["two"] == "loading"
            assert text(ask(server, "one")) == "one "  # the others do not wait
            leaver = server.connect()
            body = json.dumps({"model": "two", "prompt": "x"}).encode()
            leaver.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            server.wait(lambda: server.service.admission.taken == 4)
            assert ask(server, "one").status == 429
            leaver.close()
            server.wait(lambda: server.service.admission.taken == 3)
            gate.set()
            assert [text(reply.result(60)) for reply in waiting] == ["two "] * 3
        server.wait(in_use(server, "two", 0))
        assert models.loads == ["two", "one"]


def test_the_end_during_a_load() -> None:
    with shelf("one", "two", drain_timeout=0.3) as (server, models), ThreadPoolExecutor(1) as pool:
        gate = models.gates["two"] = threading.Event()
        waiting = pool.submit(ask, server, "two")
        server.wait(lambda: states(server)["two"] == "loading")
        server.stop()
        assert waiting.result(60).status == 503
        assert "stopped before the answer was complete" in waiting.result().error["message"]
        assert server.server.error is None
        gate.set()


def test_metrics_of_none_and_several() -> None:
    def metric(server: Serving, name: str) -> dict[str, float]:
        found = re.findall(rf'^{name}{{model="(\w+)"}} (\S+)$', server.get("/metrics").body.decode(), re.M)
        return {model: float(value) for model, value in found}

    with shelf("one", "two", keep_alive=0.2) as (server, _):
        assert metric(server, "pyllm_model_loaded") == {"one": 0, "two": 0}
        assert metric(server, "pyllm_engine_steps_total") == {"one": 0, "two": 0}
        ask(server, "two", tokens=5)
        server.wait(lambda: metric(server, "pyllm_generation_tokens_total") == {"two": 5})
        steps = metric(server, "pyllm_engine_steps_total")
        assert steps["one"] == 0
        assert steps["two"] >= 5
        server.wait(lambda: metric(server, "pyllm_model_loaded") == {"one": 0, "two": 0})
        assert metric(server, "pyllm_engine_steps_total") == steps  # counters do not fall
        assert metric(server, "pyllm_inter_token_latency_seconds_count")["two"] == 4
