"""A Hugging Face mirror that misbehaves on purpose: answers the hub's resolve URLs from a dictionary."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """`files`: "owner/repo/revision/file" -> content. The switches change what the next requests meet."""

    files: dict[str, bytes]
    url: str = ""
    say_sha256: bool = True
    wrong_sha256: str = ""
    cut_after: int = 0  # bytes of a body, then the connection closes (once)
    stall_after: int = 0  # bytes of a body, then nothing comes until `go` is set
    status: int = 0  # instead of an answer
    token: str = ""  # demanded when set
    go: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # (method, path, Range)

    def ranges(self) -> list[str]:
        """The Range header of every download so far."""
        return [ranged for method, path, ranged in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def mirror(files: dict[str, bytes]) -> Iterator[Mirror]:
    """Serves `files` on a free local port until the block ends."""
    state = Mirror(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.requests.append((self.command, self.path, self.headers.get("Range", "")))
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            if state.status:
                return self.refuse(state.status, "")
            if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                return self.refuse(401, "RepoNotFound")
            if not match or not any(key.startswith(match[1] + "/") for key in state.files):
                return self.refuse(404, "RepoNotFound")
            content = state.files.get(f"{match[1]}/{match[2]}/{match[3]}")
            if content is None:
                return self.refuse(404, "EntryNotFound")
            start = 0
            if ranged := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(ranged[1])
            self.send_response(206 if start else 200)
            sha256 = state.wrong_sha256 or hashlib.sha256(content).hexdigest()
            self.send_header("ETag", f'"{sha256}"' if state.say_sha256 else '"abc"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self.send(content[start:])
            return None

        def send(self, content: bytes) -> None:
            if state.cut_after:
                self.wfile.write(content[: state.cut_after])
                state.cut_after = 0
                self.close_connection = True
                return
            if state.stall_after:
                self.wfile.write(content[: state.stall_after])
                content = content[state.stall_after :]
                state.stall_after = 0
                self.wfile.flush()
                state.stalled.set()
                state.go.wait(30)
            try:
                self.wfile.write(content)
            except OSError:  # the client has gone
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.go.set()
        server.shutdown()
        server.server_close()
