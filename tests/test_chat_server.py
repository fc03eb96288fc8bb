"""`pyllm chat --server`: a server of pyllm's own, and others that are none."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

pytest.importorskip("pyllm._core")
from serving import serving, tiny_model

from pyllm import LLM

OPTIONS = ("--max-tokens", "12", "--temperature", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model):
    with serving(lambda: LLM(model), host="127.0.0.1", port=0) as running:
        yield running


@pytest.fixture
def run(tmp_path):
    def call(*arguments, stdin=""):
        env = {**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        command = [sys.executable, "-m", "pyllm", "chat", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, env=env, check=False, timeout=60, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_a_server_answers_as_the_model_in_this_process(run, server, model):
    code, out, err = run("--server", server.base, "-m", "hello", "--json", *OPTIONS)
    assert (code, err) == (0, "")
    there = json.loads(out)
    here = json.loads(run(str(model), "-m", "hello", "--json", *OPTIONS)[1])
    assert there["model"] == "tiny"
    assert there["text"] == here["text"]
    assert there["finish_reason"] == here["finish_reason"] == "length"
    assert there["usage"]["completion_tokens"] == 12
    assert there["timings"]["decode_tokens_per_second"] > 0


def test_a_conversation_goes_on_with_the_server(run, server):
    run("--server", f"{server.base}/v1", "-m", "hello", *OPTIONS)
    code, out, err = run("--server", server.base, "-c", "--json", "-m", "and", *OPTIONS)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["usage"]["cached_tokens"] > 0
    code, _, err = run("-c", "-m", "and")
    assert code == 1
    assert "this conversation was with tiny: give MODEL" in err


def test_what_a_server_refuses_is_told(run, server):
    assert "has no model 'other', but tiny" in run("other", "--server", server.base, "-m", "x")[2]
    code, _, err = run("--server", server.base, "-m", "x " * 5000)
    assert code == 1
    assert "400" in err
    code, _, err = run("--server", "http://127.0.0.1:1", "-m", "x")
    assert code == 1
    assert "127.0.0.1:1" in err
    assert run("--server", "nonsense", "-m", "x")[0] == 1


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "expected JSON; is it an OpenAI server?"),
        (200, b"[]", "expected a JSON object"),
        (200, b'{"data": [7]}', "expected a list of models"),
        (200, b'{"data": []}', "has no model"),
        (401, b'{"error": {"message": "no key"}}', "401 no key; the key is PYLLM_API_KEY"),
        (500, b"oh", "500 oh"),
    ],
)
def test_other_servers(run, status, body, told):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        code, _, err = run("--server", f"http://127.0.0.1:{other.server_port}", "-m", "x")
        other.shutdown()
    assert code == 1
    assert told in err


def chunk(text="", finish=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("stream", "code", "out", "err"),
    [
        (
            chunk("He") + b": ping\n\n" + chunk("llo") + chunk("", "stop") + b"data: [DONE]\n\n",
            0,
            "Hello\n",
            "",
        ),
        (chunk("He") + b'data: {"error": {"message": "out of memory"}}\n\n', 1, "He\n", "out of memory"),
        (chunk("He"), 1, "He\n", "the answer broke off"),
        (b"data: {nonsense\n\n", 1, "", "expected OpenAI's chunks"),
        (b"data: [1]\n\n", 1, "", "expected OpenAI's chunks"),
    ],
)
def test_a_server_of_openais_form(run, stream, code, out, err):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(b'{"data": [{"id": "gpt"}]}')

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(stream)

        def reply(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        found = run("--server", f"http://127.0.0.1:{other.server_port}", "-m", "x", "--temperature", "0.5")
        other.shutdown()
    assert found[:2] == (code, out)
    assert err in found[2]
    assert asked[0]["messages"] == [{"role": "user", "content": "x"}]
    assert asked[0]["temperature"] == 0.5
    assert "top_p" not in asked[0]  # what was not chosen is the server's choice


def test_a_conversation_is_read_ahead(model):
    import time

    from pyllm import SamplingParams
    from pyllm.chat.local import LocalEngine

    before = [{"role": "user", "content": "hello " * 40}, {"role": "assistant", "content": "yes"}]
    with LLM(model, threads=1) as llm:
        engine = LocalEngine(llm, "tiny")
        engine.warm(before)
        while llm.stats()["running"] or not llm.stats()["tokens_computed"]:
            time.sleep(0.01)
        prompt = engine.prompt([*before, {"role": "user", "content": "and?"}])
        stream = engine.start(prompt, SamplingParams(max_tokens=1))
        parts = []
        while not parts or parts[-1].done is None:
            parts += stream.next(0.1)
        engine.warm([{"role": "user", "content": "long " * 3000}])  # does not fit: nothing happens
    assert parts[-1].done.usage.cached_tokens >= len(prompt.tokens) - 48
