"""Requests of a job's rows: the same forms and answers as over HTTP, without a client that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from pyllm.batch.forms import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from pyllm.batch.row import Row, RowError, row_seed
from pyllm.batch.window import Ready
from pyllm.errors import PyllmError
from pyllm.server import completions, conversation, embeddings
from pyllm.server.body import as_form, check_depth
from pyllm.server.chat import ChatWriter
from pyllm.server.errors import ApiError, bad_request
from pyllm.server.exchange import Exchange
from pyllm.server.fields import refuse_not_honoured
from pyllm.server.protocol import ChatRequest, CompletionRequest, EmbeddingsRequest
from pyllm.server.responses import ResponseWriter
from pyllm.server.responses_protocol import ResponsesRequest, chat_request, input_messages
from pyllm.server.responses_protocol import refuse_not_honoured as refuse_of_responses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyllm.generation import Job
    from pyllm.server.conversation import Conversation, Part
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service

PRIORITY = 1_000_000  # after everything that a client may ask for
_Form = TypeVar("_Form", bound=msgspec.Struct)
# Puts a prepared request to the model; its answer as a msgspec form.
_Run: TypeAlias = "Callable[[Exchange], Awaitable[msgspec.Struct]]"


@dataclass(frozen=True)
class Offline:
    """Answers rows (pyllm.batch.job.Answerer) by one model. caller: whose key. any_model: rows may name another
    one. seed: what the seeds of rows without one are made of."""

    service: Service
    model: ServedModel
    caller: str = ""
    any_model: bool = False
    seed: int = 0
    other_models: set[str] = field(default_factory=set)  # that rows named, the first few

    def prepare(self, row: Row) -> Ready:
        """Checks the request and makes tokens of its prompt."""
        try:
            check_depth(row.body, self.service.options.max_depth)
            if row.body.get("stream"):
                raise bad_request("stream: a row's answer is written whole: expected false", "stream")
            if row.url == EMBEDDINGS:
                return self._embedding(row)
            prepare = {CHAT: self._chat, COMPLETIONS: self._completion, RESPONSES: self._response}[row.url]
            jobs, run = prepare(row)
        except ApiError as error:
            raise told(error) from error
        context = self.model.llm.context
        longest = max(jobs, key=lambda job: len(job.tokens))
        length = min(context, len(longest.tokens) + (longest.params.max_tokens or context))
        return Ready(row, run, longest.tokens, length, sum(job.params.n for job in jobs))

    def _embedding(self, row: Row) -> Ready:
        body = self._form(row, EmbeddingsRequest)
        service, model = self.service, self._model(body.model)
        body.priority = PRIORITY
        jobs = embeddings.prepared(service.options, model.llm, body)

        async def run(exchange: Exchange) -> msgspec.Struct:
            vectors = await embeddings.compute(service, exchange, model, body, jobs)
            return embeddings.document(model, vectors, body, exchange)

        longest = max(jobs, key=lambda job: len(job.tokens))
        return Ready(row, run, longest.tokens, len(longest.tokens), min(len(jobs), embeddings.AT_ONCE))

    async def answer(self, ready: Ready) -> dict[str, Any]:
        """The whole answer."""
        row, service = ready.row, self.service
        exchange = offline_exchange(row.url, self.caller)
        exchange.model = self.model.id
        run: _Run = ready.work
        try:
            with exchange.stack:
                document = await run(exchange)
        except ApiError as error:
            service.metrics.row(exchange, failed=True)
            raise told(error) from error
        service.metrics.row(exchange, failed=False)
        answer: dict[str, Any] = msgspec.to_builtins(document)
        return answer

    # -- endpoints ---------------------------------------------------------------------------------------------

    def _chat(self, row: Row) -> tuple[list[Job], _Run]:
        body = self._form(row, ChatRequest)
        refuse_not_honoured(row.body)
        return self._converse(body, row, lambda conversation, parts: ChatWriter(conversation).whole(parts))

    def _response(self, row: Row) -> tuple[list[Job], _Run]:
        body = self._form(row, ResponsesRequest)
        refuse_of_responses(body)
        if body.previous_response_id is not None:
            raise bad_request(
                "previous_response_id: a row knows no other answers; give all messages in input",
                "previous_response_id",
                "unsupported_field",
            )
        body.store = False
        chat = chat_request(body, input_messages(body.input))
        write = lambda conversation, parts: ResponseWriter(conversation, body).whole(parts)  # noqa: E731
        try:
            return self._converse(chat, row, write)
        except ApiError as error:
            raise error.named("response_format", "text.format") from None

    def _converse(
        self, body: ChatRequest, row: Row, write: Callable[[Conversation, list[Part]], msgspec.Struct]
    ) -> tuple[list[Job], _Run]:
        service, model = self.service, self._model(body.model)
        body.seed, body.priority = self._seed(body.seed, row), PRIORITY
        prepared = conversation.prepared(service.options, model, body)

        async def run(exchange: Exchange) -> msgspec.Struct:
            talk = conversation.converse(service, exchange, model, body, prepared)
            return write(talk, await talk.rest())

        return [prepared.job], run

    def _completion(self, row: Row) -> tuple[Sequence[Job], _Run]:
        body = self._form(row, CompletionRequest)
        refuse_not_honoured(row.body)
        service, model = self.service, self._model(body.model)
        body.seed, body.priority = self._seed(body.seed, row), PRIORITY
        jobs = completions.prepared(service.options, model, body)

        async def run(exchange: Exchange) -> msgspec.Struct:
            answers, writer = await completions.begin(service, exchange, model, body, jobs)
            return writer.whole(await answers.rest())

        return jobs, run

    def _form(self, row: Row, form: type[_Form]) -> _Form:
        return as_form(row.body, form, self.service.options)

    def _model(self, name: str | None) -> ServedModel:
        if name is not None and name != self.model.id:
            if not self.any_model:
                raise ApiError(
                    404,
                    f"model: {name!r:.120} is not {self.model.id}, which answers the whole batch",
                    param="model",
                    code="model_not_found",
                )
            if len(self.other_models) < 3:
                self.other_models.add(name)
        return self.model

    def _seed(self, given: int | None, row: Row) -> int:
        return row_seed(self.seed, row.record) if given is None else given


def offline_exchange(path: str, caller: str) -> Exchange:
    """Of a request whose client never leaves."""

    async def nothing() -> Any:
        await asyncio.Event().wait()

    return Exchange("", "POST", path, "batch", nothing, caller=caller)


def told(error: ApiError) -> Exception:
    """A row's error; what stops all rows (the engine has ended) is a PyllmError."""
    if error.status == 503:
        return PyllmError(str(error))
    return RowError(error.code or error.kind, str(error), error.status, error.document())
