"""Server-sent events: framed by hand, one write for all that has come, ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from pyllm.server.anthropic import error_message
from pyllm.server.errors import ApiError, ClientLeftError, internal
from pyllm.server.exchange import KEY, left

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from pyllm.server.engine import Answers
    from pyllm.server.exchange import Exchange

ANTHROPIC = "/v1/messages"  # paths that speak its form
DONE = b"data: [DONE]\n\n"
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # proxies such as nginx pass each event on at once
}
_encode = msgspec.json.Encoder().encode


def frame(data: Any) -> bytes:
    """One event."""
    return b"data: " + _encode(data) + b"\n\n"


@asynccontextmanager
async def watching(receive: Receive, answers: Answers[Any]) -> AsyncIterator[None]:
    """While it lasts, a client that closes its connection ends `answers`. The request has been read."""

    async def watch() -> None:
        await left(receive)
        answers.leave()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()


class EventStream(Response):
    """Sends `frames`, each some whole events. An ApiError on the way becomes the last event.

    As a response it only leaves itself in the exchange: the gate sends it, from where a token does not pass
    through fifteen layers of the web framework.
    """

    def __init__(self, frames: AsyncIterator[bytes], answers: Answers[Any]) -> None:
        super().__init__(headers=_HEADERS)
        self._frames = frames
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[KEY].stream = self

    async def run(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Sends all of it."""
        headers = [*exchange.headers, *((name.encode(), value.encode()) for name, value in _HEADERS.items())]
        exchange.status = 200
        async with watching(receive, self._answers):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for data in self._frames:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except ClientLeftError:
                exchange.status, exchange.note = 499, "the client left"
                return
            except ApiError as error:
                exchange.note = error.code or error.kind
                await self._send_error(error, exchange, send)
            except Exception as error:
                await self._send_error(internal(error), exchange, send)
                raise
            else:
                await send({"type": "http.response.body", "body": b""})

    async def _send_error(self, error: ApiError, exchange: Exchange, send: Send) -> None:
        name = b"event: error\n" if exchange.path.startswith(ANTHROPIC) else b""
        data = name + b"data: " + encoded_error(error, exchange.path) + b"\n\n"
        await send({"type": "http.response.body", "body": data})


def encoded_error(error: ApiError, path: str) -> bytes:
    """An error as JSON, in the form that clients of `path` know."""
    return _encode(error_message(error) if path.startswith(ANTHROPIC) else error.document())


def json_response(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A whole answer."""
    return Response(_encode(data), status, headers, media_type="application/json")
