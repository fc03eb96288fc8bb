"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.server.errors import bad_request, from_pyllm
from pyllm.server.exchange import Exchange, exchange_of
from pyllm.server.fields import chat_params, refuse_not_honoured, template_arguments
from pyllm.server.logprobs import chat_logprobs
from pyllm.server.protocol import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatMessage,
    ChatRequest,
    Delta,
)
from pyllm.server.stream import DONE, EventStream, frame, json_response, watching
from pyllm.server.tally import Tally

if TYPE_CHECKING:
    from pyllm.completion import Completion, Piece
    from pyllm.generation import Job
    from pyllm.server.engine import Answers
    from pyllm.server.service import ServedModel, Service


class Chat:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        service, exchange = self._service, exchange_of(request)
        service.check_ready()
        place = exchange.stack.enter_context(service.admission.place())
        body, document = await service.read(request, ChatRequest)
        refuse_not_honoured(document)
        model = service.model(body.model)
        job = await self._job(model, body)
        place.grow(job.params.n)
        exchange.model, exchange.prompt_tokens = model.id, len(job.tokens)
        answers = start(service, model, [job], body, exchange)
        answer = _Answer(model, job, exchange, bool(body.stream_options and body.stream_options.include_usage))
        if body.stream:
            exchange.streamed = True
            return EventStream(answer.frames(answers), answers)
        async with watching(request.receive, answers):
            return json_response(await answer.whole(answers))

    async def _job(self, model: ServedModel, body: ChatRequest) -> Job:
        service, template = self._service, model.llm.template
        if len(body.messages) > service.options.max_messages:
            limit = service.options.max_messages
            raise bad_request(f"messages: expected at most {limit}, got {len(body.messages)}", "messages")
        params = chat_params(body, model.defaults, service.options, template)
        arguments = template_arguments(body, template, service.options)
        tools = None if body.tool_choice == "none" else body.tools

        def prepare() -> Job:
            return model.llm.job(template.encode(body.messages, tools=tools, **arguments), params)

        try:
            return await service.in_worker(prepare)
        except PyllmError as error:
            raise from_pyllm(error, frozenset(ChatRequest.__struct_fields__)) from None


def start(
    service: Service,
    model: ServedModel,
    jobs: list[Job],
    body: object,
    exchange: Exchange,
) -> Answers:
    """Submits the request's jobs; they end with the exchange at the latest."""
    salt = service.salt(exchange, getattr(body, "cache_salt", None))
    try:
        answers = model.engine.start(jobs, priority=getattr(body, "priority", None) or 0, cache_salt=salt)
    except PyllmError as error:
        raise from_pyllm(error, frozenset(getattr(body, "__struct_fields__", ()))) from None
    exchange.stack.callback(answers.close)
    return answers


class _Answer:
    """Writes one request's answers."""

    def __init__(self, model: ServedModel, job: Job, exchange: Exchange, include_usage: bool) -> None:
        self._model = model
        self._tokenizer = model.llm.tokenizer
        self._n = job.params.n
        self._tally = Tally(exchange, 1)
        self._include_usage = include_usage
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, answers: Answers) -> ChatCompletion:
        """All of it at once."""
        done: list[Completion] = []
        while pieces := await answers.next():
            self._tally.first_token()
            for _, piece in pieces:
                if piece.completion is not None:
                    done.append(piece.completion)
                    self._tally.add(0, piece.completion)
        choices = [
            ChatChoice(
                c.index,
                ChatMessage("assistant", c.text),
                chat_logprobs(self._tokenizer, c.logprobs),
                c.finish_reason,
            )
            for c in sorted(done, key=lambda c: c.index)
        ]
        usage, timings = self._tally.usage(), self._tally.timings()
        return ChatCompletion(self._id, self._created, self._model.id, choices, usage, timings)

    async def frames(self, answers: Answers) -> AsyncIterator[bytes]:
        """As events."""
        roles = [ChatChunkChoice(i, Delta(role="assistant", content="")) for i in range(self._n)]
        first = [frame(self._chunk(role)) for role in roles]
        while pieces := await answers.next():
            self._tally.first_token()
            frames, first = first, []
            for _, piece in pieces:
                self._write(piece, frames)
            yield b"".join(frames)
        last = self._chunk(None)
        last.timings = self._tally.timings()
        if self._include_usage:
            last.usage = self._tally.usage()
            yield frame(last) + DONE
        else:
            yield DONE

    def _write(self, piece: Piece, frames: list[bytes]) -> None:
        logprobs = chat_logprobs(self._tokenizer, piece.logprobs) if piece.logprobs else None
        if piece or logprobs:
            choice = ChatChunkChoice(piece.answer, Delta(content=str.__str__(piece)), logprobs)
            frames.append(frame(self._chunk(choice)))
        if piece.completion is not None:
            self._tally.add(0, piece.completion)
            end = ChatChunkChoice(piece.answer, Delta(), None, piece.finish_reason)
            chunk = self._chunk(end)
            if not self._include_usage:
                chunk.timings = self._tally.timings()
            frames.append(frame(chunk))

    def _chunk(self, choice: ChatChunkChoice | None) -> ChatChunk:
        chunk = ChatChunk(self._id, self._created, self._model.id, [choice] if choice else [])
        if self._include_usage:
            chunk.usage = None
        return chunk
