"""A server on a thread of the test's own process, and raw ways to talk to it."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyllm._core import available_memory
from pyllm.llm import LLM
from pyllm.server.log import Log
from pyllm.server.options import ServeOptions
from pyllm.server.run import Server, listen, make_server
from pyllm.server.served import Source
from pyllm.server.service import Service
from pyllm.shapes import write_model


def tiny_model(folder: Path, **metadata: Any) -> Path:
    """Random weights, a context of 2048, 320 tokens, a template of turns."""
    return write_model(folder / "tiny.gguf", dim=64, ffn=128, quant="Q8_0", **metadata)


class Serving:
    """A running server: `base` is its address, `service` its state, `lines` its log."""

    def __init__(
        self, sources: Sequence[Source], options: ServeOptions, memory: Callable[[], int] = available_memory
    ) -> None:
        self.log = io.StringIO()
        self.service = Service(options, sources, Log(options.log_format, self.log), memory)
        listener = listen(options.host, 0)
        self.port: int = listener.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.server: Server = make_server(self.service)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until `condition`: other processes may have frozen us meanwhile, so patiently."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain"
            time.sleep(0.005)

    def wait_ready(self) -> None:
        self.wait(lambda: self.service.state[0] == "ok" or not self.thread.is_alive())

    def stop(self) -> None:
        self.server.handle_exit(15, None)
        self.thread.join(60)
        assert not self.thread.is_alive()

    @property
    def lines(self) -> list[str]:
        return self.log.getvalue().splitlines()

    # -- raw HTTP ----------------------------------------------------------------------------------------------

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, data: bytes) -> bytes:
        """All that the server sends back until it closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own. body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        fields = {"host": f"127.0.0.1:{self.port}", "content-length": str(len(data)), "connection": "close"}
        fields |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        return Reply(self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data))

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.request("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, None, headers)


class Reply:
    """A parsed answer."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1]) if first else 0
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
        }
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = _unchunked(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, without the last [DONE]."""
        data = [block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block]
        return [json.loads(item) for item in data if item != "[DONE]"]


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return whole


@contextlib.contextmanager
def serving(
    load: Callable[[], LLM], defaults: dict[str, Any] | None = None, wait: bool = True, **options: Any
) -> Iterator[Serving]:
    """A server with `options` of ServeOptions; wait: until it is ready."""
    with serving_all(
        [Source("tiny", lambda kv_bytes: load(), defaults or {})], wait=wait, **options
    ) as running:
        yield running


@contextlib.contextmanager
def serving_all(
    sources: Sequence[Source], memory: Callable[[], int] = available_memory, wait: bool = True, **options: Any
) -> Iterator[Serving]:
    """A server of several models."""
    running = Serving(sources, ServeOptions(**options), memory)
    try:
        if wait:
            running.wait_ready()
        yield running
    finally:
        running.stop()
