"""One HTTP connection: uvicorn's protocol with bounds on what a client may send, and how slowly."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pyllm.server.errors import ApiError
from pyllm.server.exchange import CONNECTION
from pyllm.server.options import ServeOptions
from pyllm.server.stream import encoded_error


class _RefusedError(Exception):
    """Raised in a parser's callback: the request goes no further."""


class Connection(HttpToolsProtocol):
    """Adds: a deadline for the head of a request, bounds on its size and number of headers, a deadline for
    clients that read nothing, a bound on connections."""

    options = ServeOptions()
    max_connections = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes of the request's head so far
        self._refusal: ApiError | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(
                ApiError(429, "too many connections", code="server_busy", headers={"retry-after": "1"})
            )
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    # -- the head of a request ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._head = 0
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= self.options.max_headers:
            self._refusal = ApiError(431, f"more than {self.options.max_headers} headers")
            raise _RefusedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.options.max_head:
            self._refusal = ApiError(431, f"the request's head is larger than {self.options.max_head} bytes")
            raise _RefusedError

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.options.receive_timeout, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(ApiError(408, f"no request came within {self.options.receive_timeout:g} s"))

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or ApiError(400, "this is not an HTTP request that can be understood"))

    def _refuse(self, error: ApiError) -> None:
        """Answers without the application, and closes."""
        body = encoded_error(error, "")
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **error.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self.transport.close()

    # -- streams -----------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether a chunk written now is on its way, rather than waiting in memory."""
        return not self.flow.write_paused and not self.transport.is_closing()

    def write_chunk(self, data: bytes) -> None:
        """More of an answer that the application has begun to send in chunks."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    # -- clients that do not read ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.options.stall_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None
