"""Who may use the server, and what one user may learn of another."""

from __future__ import annotations

import io
import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, fake_llm
from serving import Reply, Serving, serving, tiny_model

from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.server.app import routes
from pyllm.server.auth import Hosts, host_name
from pyllm.server.errors import ApiError
from pyllm.server.options import ServeOptions, read_keys

KEYS = ("first-key-1", "second-key-2")
BEARER = {"authorization": f"Bearer {KEYS[0]}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Serving]:
    with serving(lambda: fake_llm(FakeEngine(lambda p: p)), keys=KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def open_server() -> Iterator[Serving]:
    options: dict[str, Any] = {"allow_hosts": ("models.example",), "cors_origins": ("https://page.example",)}
    with serving(lambda: fake_llm(FakeEngine(lambda p: p)), **options) as server:
        yield server


# --- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_every_route_needs_a_key(guarded: Serving, method: str) -> None:
    paths = [route.path.replace("{model:path}", "tiny") for route in routes(guarded.service)]
    assert len(paths) > 8
    odd = ["/page/", "/page/main.js/", "/page/../metrics", "//", "/openapi.json", "/docs", "/nothing"]
    odd += ["/v1", "/%2e%2e/metrics", "/V1/models"]
    odd += ["//health", "/health/", "/health/../metrics", "/./health", "/health%2f", "/Health", "/health;x"]
    odd += ["http://localhost/metrics", "/metrics?path=/health", "/metrics#/health"]
    for path in paths + odd:
        if path == "/health":
            continue
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic Zmlyc3Q="},
            {"x-api-key": ""},
        ):
            for host in ("localhost", f"127.0.0.1:{guarded.port}", "[::1]"):
                reply = guarded.request(method, path, None, {**headers, "host": host})
                assert reply.status == 401, (method, path, headers, host, reply.status)
                if method != "HEAD":
                    assert reply.error["type"] == "authentication_error"
    assert guarded.get("/health").json == {"status": "ok"}


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"authorization": f"bearer   {KEYS[1]} "},
        {"x-api-key": KEYS[1]},
    ],
)
def test_right_keys(guarded: Serving, headers: dict[str, str]) -> None:
    assert guarded.get("/v1/models", **headers).status == 200
    reply = guarded.post("/v1/completions", {"prompt": "abc"}, **headers)
    assert reply.json["choices"][0]["text"] == "abc"


@pytest.mark.parametrize("key", [KEYS[0][:-1], KEYS[0] + "x", KEYS[0].upper(), "", "\xff\xfe", ",".join(KEYS)])
def test_wrong_keys(guarded: Serving, key: str) -> None:
    assert guarded.get("/v1/models", authorization=f"Bearer {key}").status == 401
    assert guarded.get("/v1/models", **{"x-api-key": key}).status == 401


def test_keys_are_not_told(guarded: Serving) -> None:
    guarded.get("/v1/models", authorization="Bearer wrong-secret-key")
    guarded.get("/v1/models", **BEARER)
    log = guarded.log.getvalue()
    assert "wrong-secret-key" not in log
    assert KEYS[0] not in log
    assert not any(key in guarded.get("/metrics", **BEARER).body.decode() for key in KEYS)


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst-key-1\n\n  second-key-2  \n")
    assert read_keys(path) == KEYS
    path.write_text("# none\n")
    with pytest.raises(PyllmError, match="expected at least one key, found none"):
        read_keys(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PyllmError, match="expected text"):
        read_keys(path)
    with pytest.raises(PyllmError, match="No such file"):
        read_keys(tmp_path / "absent")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_no_listening_beyond_this_machine_without_a_key(host: str) -> None:
    with pytest.raises(PyllmError, match="there is no API key"):
        ServeOptions(host=host)
    assert ServeOptions(host=host, keys=KEYS).host == host
    assert ServeOptions(host=host, allow_no_key=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert ServeOptions(host=host).keys == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keys": ("short",)}, "has 5 characters: expected at least 8"),
        ({"keys": ("with a space",)}, "cannot carry"),
        ({"keys": ("ümlaut-key",)}, "cannot carry"),
        ({"tls_cert": Path("a")}, "needs both"),
        ({"cors_origins": ("page.example",)}, "expected scheme://host"),
        ({"cors_origins": ("https://page.example/path",)}, "expected scheme://host"),
        ({"allow_hosts": ("https://page.example",)}, "expected a host name"),
        ({"tls_cert": Path("/no/cert"), "tls_key": Path("/no/key")}, "--tls-cert /no/cert: No such file"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PyllmError, match=says):
        ServeOptions(**options)


# --- names and origins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1", True),
        ("10.1.2.3:8000", True),
        ("[::1]:8000", True),
        ("models.example", True),
        ("models.example:80", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("models.example.evil.example:80", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("", False),
        ("*", False),
    ],
)
def test_names_in_host_headers(open_server: Serving, host: str, allowed: bool) -> None:
    reply = open_server.get("/v1/models", host=host)
    assert reply.status == (200 if allowed else 403)
    if not allowed:
        assert "--allow-host" in reply.error["message"]


def test_any_name_when_told_so() -> None:
    Hosts("0.0.0.0", ["*"], []).check({"host": "evil.example"})
    with pytest.raises(ApiError):
        Hosts("0.0.0.0", [], []).check({"host": "evil.example"})


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.b:80", "a.b"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("A", "a"),
        ("a:b", "a:b"),
        ("", ""),
        (":80", ""),
    ],
)
def test_host_name(host: str, name: str) -> None:
    assert host_name(host) == name


def test_pages_from_elsewhere(open_server: Serving) -> None:
    own = f"http://127.0.0.1:{open_server.port}"
    for origin, allowed in [
        (own, True),
        ("https://page.example", True),
        ("https://evil.example", False),
        ("http://page.example", False),
        ("https://page.example:444", False),
        ("null", False),
        ("http://127.0.0.1:1", False),
        ("http://[bad", False),
    ]:
        reply = open_server.post("/v1/completions", {"prompt": "x"}, origin=origin)
        assert reply.status == (200 if allowed else 403), origin
        shown = reply.headers.get("access-control-allow-origin")
        assert shown == ("https://page.example" if origin == "https://page.example" else None)


def test_preflight(open_server: Serving, guarded: Serving) -> None:
    ask = {"origin": "https://page.example", "access-control-request-method": "POST"}
    reply = open_server.request("OPTIONS", "/v1/chat/completions", None, ask)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    closed = guarded.request("OPTIONS", "/v1/chat/completions", None, {**ask, **BEARER})
    assert closed.status == 403
    assert not any(name.startswith("access-control") for name in closed.headers)


def test_headers_of_every_answer(open_server: Serving) -> None:
    for reply in (
        open_server.get("/health"),
        open_server.get("/nothing"),
        open_server.get("/", host="evil.example"),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert len(reply.headers["x-request-id"]) == 32
        assert "server" not in reply.headers


def test_log_lines_cannot_be_forged(open_server: Serving) -> None:
    open_server.get("/a%0a00:00:00%20GET%20/forged%20200")
    open_server.wait(lambda: any("forged" in line for line in open_server.lines))
    (line,) = [line for line in open_server.lines if "forged" in line]
    assert "\\n" in line
    assert " 404 " in line


def test_json_log() -> None:
    with serving(lambda: fake_llm(FakeEngine(lambda p: p)), log_format="json") as server:
        server.post("/v1/completions", {"prompt": "abc"}, **{"x-request-id": "one"})
        server.wait(lambda: any('"one"' in line for line in server.lines))
        lines = [json.loads(line) for line in server.lines]
    (line,) = [line for line in lines if line.get("id") == "one"]
    assert (line["status"], line["path"], line["method"]) == (200, "/v1/completions", "POST")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 3)
    assert line["first_token_s"] >= 0
    assert line["time"].endswith("Z")


# --- caches and TLS -------------------------------------------------------------------------------------------


def test_callers_with_other_keys_share_no_cached_prompts(tmp_path: Path) -> None:
    path = tiny_model(tmp_path)
    prompt = "a long prompt that fills several blocks of the cache, so that it could be found again"
    with serving(lambda: LLM(path, threads=1), keys=KEYS) as server:

        def cached(key: str, **fields: Any) -> int:
            body = {"prompt": prompt, "max_tokens": 1, **fields}
            reply = server.post("/v1/completions", body, authorization=f"Bearer {key}")
            return int(reply.json["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert [cached(KEYS[0]), cached(KEYS[0]) > 0] == [0, True]
        assert [cached(KEYS[1]), cached(KEYS[1]) > 0] == [0, True]
        assert [cached(KEYS[1], cache_salt="x"), cached(KEYS[0], cache_salt="x")] == [0, 0]
        echo = {"echo": True, "logprobs": 0, "prompt": prompt + "!"}
        assert server.post("/v1/completions", echo, authorization=f"Bearer {KEYS[0]}").status == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> tuple[Path, Path]:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return certificate, key


def test_tls(certificate: tuple[Path, Path]) -> None:
    options: dict[str, Any] = {"tls_cert": certificate[0], "tls_key": certificate[1]}
    with serving(lambda: fake_llm(FakeEngine(lambda p: p)), **options) as server:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        url = f"https://localhost:{server.port}/v1/completions"
        request = urllib.request.Request(url, json.dumps({"prompt": "abc"}).encode())
        with urllib.request.urlopen(request, context=context, timeout=60) as reply:
            assert json.load(reply)["choices"][0]["text"] == "abc"
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=60)
        assert Reply(server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") or b" 0 ").status == 0
        assert server.log.getvalue().startswith("pyllm: listening on https://")


def test_wrong_certificates(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "not.pem"
    other.write_text("not a certificate")
    with pytest.raises(PyllmError, match="expected a certificate and its unencrypted key"):
        ServeOptions(tls_cert=other, tls_key=certificate[1])
    with pytest.raises(PyllmError, match="expected a certificate and its unencrypted key"):
        ServeOptions(tls_cert=certificate[0], tls_key=other)


def test_a_closed_log_is_no_reason_to_stop() -> None:
    with serving(lambda: fake_llm(FakeEngine(lambda p: p))) as server:
        log, server.log = server.log, io.StringIO()
        log.close()
        assert server.post("/v1/completions", {"prompt": "abc"}).status == 200
