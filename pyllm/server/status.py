"""What the server tells of itself: /v1/models, /health, /ready, /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyllm.server.protocol import ModelCard, ModelList, ModelMeta, Status
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.server.registry import Entry
    from pyllm.server.service import Service


class StatusRoutes:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, request: Request) -> Response:
        """The models that are served, and the state of each."""
        entries = self._service.registry.entries.values()
        return json_response(ModelList([_card(entry) for entry in entries]))

    async def model(self, request: Request) -> Response:
        """One of them."""
        return json_response(_card(self._service.registry.find(request.path_params["model"])))

    async def health(self, request: Request) -> Response:
        """Alive: 200, unless the engine has died; then 503 and why."""
        state, reason = self._service.state
        return json_response(Status(state, reason), 503 if state == "broken" else 200)

    async def ready(self, request: Request) -> Response:
        """200 when requests are answered; 503 while loading, draining or broken."""
        state, reason = self._service.state
        return json_response(Status(state, reason), 200 if state == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _card(entry: Entry) -> ModelCard:
    source, model = entry.source, entry.model
    state, reason = entry.state
    card = ModelCard(entry.id, entry.created, state, reason or msgspec.UNSET)
    config = model.llm.config if model else source.config
    if config is not None:
        context = model.llm.context if model else source.context
        card.max_model_len = card.context_length = context
        card.meta = ModelMeta(context, config.context_length, config.vocab, config.dim, config.architecture)
    return card
