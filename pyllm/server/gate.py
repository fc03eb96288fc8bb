"""Around all routes: who may ask, request ids, what every answer's head says, one log line, one count."""

from __future__ import annotations

import re
import time
import traceback
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from pyllm.server.auth import Hosts, Keys
from pyllm.server.errors import ApiError, ClientLeftError, internal
from pyllm.server.exchange import CONNECTION, KEY, Exchange, new_id
from pyllm.server.stream import encoded_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pyllm.server.service import Service

PUBLIC = "/health"  # needs no key, under any name
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class Gate:
    """The outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, service: Service, paths: frozenset[str], page: frozenset[str] = frozenset()
    ) -> None:
        """paths: of the routes, as the metrics call them. page: those whose files may be read without a key."""
        self._app = app
        self._service = service
        self._paths = paths
        self._page = page
        options = service.options
        self._keys = Keys(options.keys)
        self._hosts = Hosts(options.host, options.allow_hosts, options.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"unexpected ASGI scope {scope['type']}")
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        client = scope.get("client")
        exchange = scope[KEY] = Exchange(
            id=given if _ID.fullmatch(given) else new_id(),
            method=scope["method"],
            path=scope["path"],
            client=client[0] if client else "",
            receive=receive,
            connection=scope.pop(CONNECTION),
        )
        exchange.headers = [(b"x-request-id", exchange.id.encode()), *_HEADERS]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *exchange.headers]}
            await send(message)

        try:
            with exchange.stack:
                if scope["path"] != PUBLIC:
                    self._hosts.check(headers)
                    if scope["path"] not in self._page or scope["method"] not in ("GET", "HEAD"):
                        exchange.caller = self._keys.caller(headers)
                await self._app(scope, receive, send_with_headers)
                if exchange.stream is not None:
                    await exchange.stream.run(exchange, receive, send)
        except ApiError as error:
            exchange.note = error.code or error.kind
            await respond(send_with_headers, error, exchange.path)
        except Exception as error:
            exchange.note = type(error).__name__
            traceback.print_exc()
            if not exchange.status:
                await respond(send_with_headers, internal(error), exchange.path)
        finally:
            self._finished(exchange)
            del scope[KEY]  # whose `receive` leads back to the scope: garbage at once, not some time later

    def _finished(self, exchange: Exchange) -> None:
        if exchange.completion_tokens:
            self._service.admission.finished(time.perf_counter() - exchange.started)
        self._service.log.request(exchange)
        self._service.metrics.finished(exchange, self._label(exchange.path))

    def _label(self, path: str) -> str:
        if path in self._paths:
            return path
        for family in ("/v1/models/", "/v1/responses/", "/v1/files/", "/v1/batches/"):
            if path.startswith(family):
                return family
        return "other"


async def respond(send: Any, error: ApiError, path: str) -> None:
    """Sends an error as a whole answer."""
    body = encoded_error(error, path)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def as_api_error(error: Exception) -> ApiError:
    """Whatever a route raises, as the client is told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ClientLeftError):
        return ApiError(499, "the client left")
    if isinstance(error, HTTPException):  # of the router: 404, 405
        return ApiError(error.status_code, error.detail, headers=error.headers)
    return internal(error)
