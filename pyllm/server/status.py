"""What the server tells of itself: /v1/models, /health, /ready, /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pyllm.server.protocol import ModelCard, ModelList, ModelMeta, Status
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.server.service import ServedModel, Service


class StatusRoutes:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, request: Request) -> Response:
        """The models that are served."""
        return json_response(ModelList([_card(model) for model in self._service.models]))

    async def model(self, request: Request) -> Response:
        """One of them."""
        return json_response(_card(self._service.model(request.path_params["model"])))

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


def _card(model: ServedModel) -> ModelCard:
    llm, config = model.llm, model.llm.config
    meta = ModelMeta(llm.context, config.context_length, config.vocab, config.dim, config.architecture)
    return ModelCard(model.id, model.created, llm.context, llm.context, meta)
