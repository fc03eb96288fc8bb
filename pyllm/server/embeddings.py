"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.server.conversation import start
from pyllm.server.errors import bad_request
from pyllm.server.prompts import texts_or_tokens
from pyllm.server.protocol import (
    EmbeddingObject,
    Embeddings,
    EmbeddingsRequest,
    EmbeddingsUsage,
    PromptTokensDetails,
)
from pyllm.server.stream import json_response, watching

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pyllm.embedding import EmbedJob
    from pyllm.llm import LLM
    from pyllm.server.exchange import Exchange
    from pyllm.server.options import ServeOptions
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service

MAX_INPUTS = 2048
AT_ONCE = 32  # of a request in the engine: many texts must not keep everyone else waiting


class EmbeddingRoutes:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """A vector for each of one or several texts."""
        service = self._service
        exchange, place, body, _ = await service.admit(request, EmbeddingsRequest)
        model = await service.open(exchange, body.model)
        jobs = await service.in_worker(lambda: prepared(service.options, model.llm, body))
        place.grow(min(len(jobs), AT_ONCE))
        vectors = await compute(service, exchange, model, body, jobs)
        return await service.in_worker(lambda: json_response(document(model, vectors, body, exchange)))


def prepared(options: ServeOptions, llm: LLM, body: EmbeddingsRequest) -> list[EmbedJob]:
    """The texts' tokens, on any thread."""
    size = llm.config.dim
    if body.dimensions is not None and body.dimensions > size:
        raise bad_request(
            f"dimensions: expected at most {size}, the model's, got {body.dimensions}", "dimensions"
        )
    inputs = texts_or_tokens(body.input, "input")
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise bad_request(f"input: expected 1 to {MAX_INPUTS} texts, got {len(inputs)}", "input")
    jobs = []
    for number, text in enumerate(inputs):
        name = f"input[{number}]" if len(inputs) > 1 else "input"
        try:
            jobs.append(llm.embed_job(text, body.pooling, default=options.pooling))
        except PyllmError as error:
            raise bad_request(f"{name}: {error}", "input") from None
        if (length := len(jobs[-1].tokens)) > llm.context:
            raise bad_request(
                f"{name}: {length} tokens are more than the context of {llm.context}; shorten it",
                "input",
                "context_length_exceeded",
            )
    return jobs


async def compute(
    service: Service,
    exchange: Exchange,
    model: ServedModel,
    body: EmbeddingsRequest,
    jobs: list[EmbedJob],
) -> list[npt.NDArray[np.float32]]:
    """A vector each."""
    exchange.model, exchange.prompt_tokens = model.id, sum(len(job.tokens) for job in jobs)
    vectors: dict[int, npt.NDArray[np.float32]] = {}
    for first in range(0, len(jobs), AT_ONCE):
        answers = start(service, model, jobs[first : first + AT_ONCE], body, exchange)
        async with watching(exchange.receive, answers):
            for number, embedding in await answers.rest():
                vectors[first + number] = embedding.vector
                exchange.cached_tokens += embedding.usage.cached_tokens
                if exchange.queue_s is None:
                    exchange.queue_s = embedding.queue_s
    return [vectors[number] for number in range(len(jobs))]


def document(
    model: ServedModel, vectors: list[npt.NDArray[np.float32]], body: EmbeddingsRequest, exchange: Exchange
) -> Embeddings:
    """The answer."""
    data = [
        EmbeddingObject(number, _encoded(_shortened(vector, body.dimensions), body.encoding_format))
        for number, vector in enumerate(vectors)
    ]
    tokens = exchange.prompt_tokens
    return Embeddings(
        data, model.id, EmbeddingsUsage(tokens, tokens, PromptTokensDetails(exchange.cached_tokens))
    )


def _shortened(vector: npt.NDArray[np.float32], dimensions: int | None) -> npt.NDArray[np.float32]:
    """The first `dimensions` features, again of length 1."""
    if dimensions is None or dimensions == len(vector):
        return vector
    import numpy as np

    part = vector[:dimensions].astype(np.float64)
    return (part / (np.linalg.norm(part) or 1.0)).astype(np.float32)


def _encoded(vector: npt.NDArray[np.float32], form: str | None) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
