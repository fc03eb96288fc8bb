"""Server-sent events: framed by hand, one write for all that a step gives, ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from starlette.responses import Response

from pyllm.server.anthropic import error_message
from pyllm.server.errors import ApiError, ClientLeftError, internal
from pyllm.server.exchange import KEY, left

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from pyllm.completion import Piece
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
_HOLE = "\x00"


class Connection(Protocol):
    """Where chunks of an answer can be written at once."""

    @property
    def writable(self) -> bool:
        """Whether the client is there, and reads."""
        ...

    def write_chunk(self, data: bytes) -> None: ...


class Events(Protocol):
    """An answer's events in one of the interfaces' forms, as bytes."""

    def first(self) -> bytes:
        """What can be said before any of the answer."""
        ...

    def of(self, pieces: list[tuple[int, Piece]]) -> bytes:
        """(which job, piece) of what has come."""
        ...

    def last(self) -> bytes:
        """What follows when all has been said."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """The last event, when the rest will not come."""
        ...


def frame(data: Any) -> bytes:
    """One event."""
    return b"data: " + _encode(data) + b"\n\n"


def pattern(event: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """An event that differs by one text only, encoded but for that."""
    before, after = event(_HOLE).split(_encode(_HOLE))
    return lambda text: before + _encode(text) + after


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
    """Sends `events`. An ApiError on the way becomes the last one.

    As a response it only leaves itself in the exchange: the gate sends it, from where a token does not pass
    through fifteen layers of the web framework.
    """

    def __init__(self, events: Events, answers: Answers[Piece]) -> None:
        super().__init__(headers=_HEADERS)
        self._events = events
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
                if data := self._events.first():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                if exchange.connection is not None:
                    self._answers.direct = self._writer(exchange.connection)
                while pieces := await self._answers.next():
                    data = self._events.of(pieces)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": self._events.last()})
            except ClientLeftError:
                exchange.status, exchange.note = 499, "the client left"
                return
            except ApiError as error:
                exchange.note = error.code or error.kind
                await send({"type": "http.response.body", "body": self._events.failed(error)})
            except Exception as error:
                await send({"type": "http.response.body", "body": self._events.failed(internal(error))})
                raise
            finally:
                self._answers.direct = None  # which leads back here

    def _writer(self, connection: Connection) -> Callable[[list[tuple[int, Piece]]], bool]:
        """Sends pieces without waking the task; False where the client must read first."""

        def write(pieces: list[tuple[int, Piece]]) -> bool:
            if not connection.writable:
                return False
            if data := self._events.of(pieces):  # an empty chunk would be the end
                connection.write_chunk(data)
            return True

        return write


def encoded_error(error: ApiError, path: str) -> bytes:
    """An error as JSON, in the form that clients of `path` know."""
    return _encode(error_message(error) if path.startswith(ANTHROPIC) else error.document())


def json_response(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A whole answer."""
    return Response(_encode(data), status, headers, media_type="application/json")
