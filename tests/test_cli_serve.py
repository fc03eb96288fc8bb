"""`pyllm serve` as a person uses it: a process, its messages, its signals, its options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from serving import tiny_model

from pyllm.cli.output import UsageError
from pyllm.cli.serve import serve
from pyllm.cli.serve_config import read_config, serve_options

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


class Process:
    """A running `pyllm serve`."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyllm", "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + 120
        while True:
            for line in self.lines:
                if text in line:
                    return line
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)

    @property
    def port(self) -> int:
        found = re.search(r"://.*:(\d+)", self.wait_for("listening on"))
        assert found
        return int(found[1])

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Process]:
    process = Process(*arguments, **environment)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def refused(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and message of a server that does not start."""
    command = [sys.executable, "-m", "pyllm", "serve", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_and_stop(model: Path, number: int) -> None:
    with running(str(model), "--port", "0") as server:
        server.wait_for("tiny is ready")
        assert server.get("/v1/models")["data"][0]["id"] == "tiny"
        done = server.post(
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "ignore_eos": True},
        )
        assert done["usage"]["completion_tokens"] == 3
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
        assert server.lines[-1] == "pyllm: stopped"
        assert any("POST /v1/chat/completions 200" in line for line in server.lines)


def test_serve_several(model: Path, tmp_path: Path) -> None:
    other, damaged = tmp_path / "other.gguf", tmp_path / "damaged.gguf"
    other.write_bytes(model.read_bytes())
    damaged.write_bytes(model.read_bytes())
    paths = [str(model), str(other), str(damaged)]
    with running(*paths, "--port", "0", "--alias", "ours", "--keep-alive", "1s") as server:
        server.wait_for("ours, other, damaged: loaded when asked for")
        damaged.unlink()
        damaged.write_bytes(model.read_bytes()[:5000])
        hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "ignore_eos": True}
        assert server.post("/v1/chat/completions", {"model": "other", **hi})["model"] == "other"
        assert server.post("/v1/chat/completions", hi)["model"] == "ours"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.post("/v1/chat/completions", {"model": "damaged", **hi})
        cards = {card["id"]: card for card in server.get("/v1/models")["data"]}
        assert cards["damaged"]["state"] == "failed"
        assert cards["other"]["meta"] == cards["ours"]["meta"]
        assert cards["other"]["max_model_len"] == 2048
        server.wait_for("other is unloaded: nobody has used it for 1 s")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    code, message = refused(str(model), str(damaged))
    assert code == 1
    assert message.startswith(f"pyllm: {damaged}: ")
    assert "truncated or damaged" in message
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(model.read_bytes().replace(b"llama", b"lxama"))
    code, message = refused(str(model), str(unknown))
    assert code == 1
    assert message.startswith(f"pyllm: {unknown}: general.architecture: lxama is not supported; known: llama")
    code, message = refused(str(model), str(model))
    assert code == 2
    assert "two models are called tiny; --alias" in message
    code, message = refused(str(model), "--keep-alive", "soon")
    assert code == 2
    assert "--keep-alive 'soon': expected a time such as 30s" in message


def test_what_does_not_start(model: Path, tmp_path: Path) -> None:
    code, message = refused("--host", "0.0.0.0", str(model))
    assert code == 2
    assert "there is no API key" in message
    code, message = refused(str(tmp_path / "absent.gguf"))
    assert (code, message) == (1, f"pyllm: {tmp_path}/absent.gguf: no such file")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:5000])
    code, message = refused(str(damaged), "--port", "0")
    assert code == 1
    assert "damaged.gguf" in message.split("\n")[-1]
    with running(str(model), "--port", "0") as server:
        code, message = refused(str(model), "--port", str(server.port))
        assert code == 1
        assert f"port {server.port} of 127.0.0.1 is in use" in message


def test_keys_and_options_of_the_environment(model: Path) -> None:
    variables = {"PYLLM_API_KEY": "first-key-1 second-key-2", "PYLLM_MODEL": str(model), "PYLLM_PORT": "0"}
    with running("--alias", "ours", **variables) as server:
        server.wait_for("ours is ready")
        for key in ("first-key-1", "second-key-2"):
            assert server.get("/v1/models", authorization=f"Bearer {key}")["data"][0]["id"] == "ours"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.get("/v1/models")


# --- options --------------------------------------------------------------------------------------------------


def options_of(*arguments: str) -> Any:
    """The server's options for a command line."""
    context = serve.make_context("serve", list(arguments))
    given = {name: value for name, value in context.params.items() if name not in ("model", "config")}
    return context.params["model"], serve_options(given)


def test_precedence(tmp_path: Path, monkeypatch: Any) -> None:
    config = tmp_path / "pyllm.toml"
    config.write_text(
        'model = "from-file"\nport = 1001\nmax-queue = 7\nmax-body = "1MB"\nstrict = true\n'
        'allow-host = ["a.example", "b.example"]\ndrain_timeout = 5\ncors-origin = "https://one.example"\n'
    )
    model, options = options_of("--config", str(config))
    assert (model, options.port, options.max_queue, options.max_body) == (("from-file",), 1001, 7, 10**6)
    assert (options.strict, options.drain_timeout) == (True, 5.0)
    assert (options.allow_hosts, options.cors_origins) == (("a.example", "b.example"), ("https://one.example",))
    monkeypatch.setenv("PYLLM_PORT", "1002")
    monkeypatch.setenv("PYLLM_ALLOW_HOST", "c.example d.example")
    model, options = options_of("--config", str(config))
    assert (options.port, options.allow_hosts) == (1002, ("c.example", "d.example"))
    model, options = options_of("--config", str(config), "--port", "1003", "other")
    assert (model, options.port, options.max_queue) == (("other",), 1003, 7)
    monkeypatch.setenv("PYLLM_MODEL", "one two")
    assert options_of("--config", str(config))[0] == ("one", "two")
    monkeypatch.setenv("PYLLM_CONFIG", str(config))
    assert options_of("--strict")[1].max_queue == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "unknown option 'prot'; did you mean port?"),
        ("config = 'x'", "unknown option 'config'"),
        ("port = [1]", "port: expected one value, found list"),
        ("[port]\na = 1", "port: expected one value, found dict"),
        ("port = ", "pyllm.toml: "),
        ("max-body = 'much'", "expected an amount of memory"),
        ("api-key = ['short']", "expected at least 8"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "pyllm.toml"
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        options_of("--config", str(config))
    assert says in str(caught.value)


def test_values_name_where_they_come_from(tmp_path: Path) -> None:
    config = tmp_path / "pyllm.toml"
    config.write_text("max-queue = 'many'")
    for arguments, variables, said in [
        ((), {"PYLLM_PORT": "abc"}, "Error: Invalid value for PYLLM_PORT: 'abc' is not a whole number."),
        (("--port", "abc"), {}, "Error: Invalid value for '--port': 'abc' is not a whole number."),
        (("--drain-timeout", "x"), {}, "Error: Invalid value for '--drain-timeout': 'x' is not a number."),
        (("--config", str(config)), {}, f"max-queue in {config}: 'many' is not a whole number."),
        (("--max-body", "x"), {}, "pyllm: --max-body 'x': expected an amount"),
    ]:
        code, message = refused(*arguments, **variables)
        assert code == 2
        assert said in message


def test_wrong_values_of_a_file(tmp_path: Path) -> None:
    config = tmp_path / "pyllm.toml"
    config.write_text("port = 'many'")
    with pytest.raises(click.BadParameter, match="'many'"):
        options_of("--config", str(config))
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "absent.toml", serve)
