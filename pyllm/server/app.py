"""The routes, and what stands around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as Routed

from pyllm.server import anthropic, batch_protocol, protocol, responses_protocol
from pyllm.server.batches import Batches
from pyllm.server.chat import Chat
from pyllm.server.completions import Completions
from pyllm.server.embeddings import EmbeddingRoutes
from pyllm.server.errors import ApiError, ClientLeftError
from pyllm.server.exchange import exchange_of
from pyllm.server.files import Files
from pyllm.server.gate import Gate, as_api_error
from pyllm.server.messages import Messages
from pyllm.server.openapi import document
from pyllm.server.responses import Responses
from pyllm.server.status import StatusRoutes
from pyllm.server.stream import encoded_error, json_response
from pyllm.server.tokens import TokenRoutes
from pyllm.server.web import Page

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pyllm.server.service import Service


@dataclass(frozen=True)
class Route:
    """`takes`, `gives`: msgspec forms of the request and the answer, which is `media` where it has no form.
    `events`: the form of each event, if it streams. `fails`: of an error."""

    method: str
    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    takes: type | None = None
    gives: type | None = None
    events: type | None = None
    fails: type = protocol.Error
    media: str = "text/plain"


def routes(service: Service) -> list[Route]:
    """All endpoints. Another family of them is a file of its own and its lines here."""
    chat, completions = Chat(service), Completions(service)
    tokens, status = TokenRoutes(service), StatusRoutes(service)
    messages, responses = Messages(service), Responses(service)
    files, batches, b = Files(service), Batches(service), batch_protocol
    embeddings = EmbeddingRoutes(service)
    p, a, r = protocol, anthropic, responses_protocol
    return [
        Route("POST", "/v1/chat/completions", chat.create, p.ChatRequest, p.ChatCompletion, events=p.ChatChunk),
        Route(
            "POST",
            "/v1/completions",
            completions.create,
            p.CompletionRequest,
            p.Completion,
            events=p.Completion,
        ),
        Route("POST", "/v1/embeddings", embeddings.create, p.EmbeddingsRequest, p.Embeddings),
        Route(
            "POST",
            "/v1/messages",
            messages.create,
            a.MessagesRequest,
            a.AnswerMessage,
            events=a.AnswerMessage,
            fails=a.ErrorMessage,
        ),
        Route(
            "POST",
            "/v1/responses",
            responses.create,
            r.ResponsesRequest,
            r.ResponseObject,
            events=r.ResponseObject,
        ),
        Route("GET", "/v1/responses/{id}", responses.get, gives=r.ResponseObject),
        Route("DELETE", "/v1/responses/{id}", responses.delete, gives=r.Deleted),
        Route(
            "POST",
            "/v1/messages/count_tokens",
            messages.count_tokens,
            a.CountRequest,
            a.InputTokens,
            fails=a.ErrorMessage,
        ),
        Route("POST", "/v1/files", files.create, gives=b.FileObject),
        Route("GET", "/v1/files", files.list, gives=b.FileList),
        Route("GET", "/v1/files/{id}", files.get, gives=b.FileObject),
        Route("DELETE", "/v1/files/{id}", files.delete, gives=b.Deleted),
        Route("GET", "/v1/files/{id}/content", files.content, media="application/jsonl"),
        Route("POST", "/v1/batches", batches.create, b.BatchRequest, b.BatchObject),
        Route("GET", "/v1/batches", batches.list, gives=b.BatchList),
        Route("GET", "/v1/batches/{id}", batches.get, gives=b.BatchObject),
        Route("POST", "/v1/batches/{id}/cancel", batches.cancel, gives=b.BatchObject),
        Route("GET", "/v1/models", status.models, gives=p.ModelList),
        Route("GET", "/v1/models/{model:path}", status.model, gives=p.ModelCard),
        Route("POST", "/tokenize", tokens.tokenize, p.TokenizeRequest, p.Tokens),
        Route("POST", "/detokenize", tokens.detokenize, p.DetokenizeRequest, p.Content),
        Route("GET", "/health", status.health, gives=p.Status),
        Route("GET", "/ready", status.ready, gives=p.Status),
        Route("GET", "/metrics", status.metrics),
    ]


def create_app(service: Service) -> ASGIApp:
    """The whole server as an ASGI application."""

    async def openapi(request: Request) -> Response:
        """This interface, for machines."""
        return json_response(described)

    page = Page()
    table = [
        *routes(service),
        Route("GET", "/openapi.json", openapi, media="application/json"),
        Route("GET", "/", page.get, media="text/html"),
    ]
    described = document(table)
    routed = [Routed(path, page.get) for path in page.paths]
    routed += [Routed(r.path, r.endpoint, methods=[r.method]) for r in table if r.path not in page.paths]
    paths = frozenset(route.path for route in routed)

    async def explain(request: Request, error: Exception) -> Response:
        told = as_api_error(error)
        if told.status == 405:  # the router tells of one method only
            found = [route.methods or () for route in routed if route.matches(request.scope)[0] != Match.NONE]
            told.headers = {"allow": ", ".join(sorted(set().union(*found)))}
        # Not the message: it may hold what the user wrote.
        exchange_of(request).note = " ".join(filter(None, (told.code or told.kind, told.param)))
        body = encoded_error(told, request.scope["path"])
        return Response(body, told.status, told.headers, media_type="application/json")

    kinds: list[Any] = [ApiError, ClientLeftError, HTTPException, Exception]
    app = Starlette(routes=routed, exception_handlers=dict.fromkeys(kinds, explain))
    app.router.redirect_slashes = False
    gate: ASGIApp = Gate(app, service, paths, page.paths)
    if origins := service.options.cors_origins:
        gate = CORSMiddleware(
            gate,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return gate
