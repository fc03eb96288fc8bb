"""A conversation's answers, whatever the form in which they were asked for and are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.parsers import CallArguments, CallStart, Content, Dialect, Parser
from pyllm.server.errors import bad_request, from_pyllm
from pyllm.server.exchange import Exchange, exchange_of
from pyllm.server.fields import chat_params, template_arguments
from pyllm.server.protocol import ChatRequest
from pyllm.server.stream import EventStream, json_response, watching
from pyllm.server.structure import (
    ToolChoice,
    answer_constraint,
    asked_constraint,
    field_of,
    refused,
    tool_choice,
)
from pyllm.server.tally import Tally

if TYPE_CHECKING:
    from pyllm.completion import Completion, Piece
    from pyllm.generation import Job, Work
    from pyllm.parsers import Delta
    from pyllm.server.admission import Place
    from pyllm.server.engine import Answers
    from pyllm.server.options import ServeOptions
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service
    from pyllm.server.stream import Events

_T = TypeVar("_T")
_PROMPT_END = 64  # tokens of a prompt that show whether it opens the model's reasoning


class Part(Struct, frozen=True):
    """What a piece of an answer means. `end`: the finish reason, with the last part: "tool_calls" too."""

    answer: int
    deltas: list[Delta]
    piece: Piece
    end: str | None

    @property
    def completion(self) -> Completion | None:
        return self.piece.completion


class Conversation:
    """One request's answers as they come."""

    def __init__(
        self,
        model: ServedModel,
        job: Job,
        answers: Answers[Piece],
        exchange: Exchange,
        parsers: list[Parser | None],
        many: bool = True,
    ) -> None:
        """many: an answer may have several calls; otherwise it ends after the first."""
        self.model = model
        self.n = job.params.n
        self.tally = Tally(exchange, 1)
        self._answers = answers
        self._parsers = parsers
        self._many = many
        self._calls = [0] * self.n  # of each answer

    async def rest(self) -> list[Part]:
        """All that is still to come. ApiError and ClientLeftError end it early."""
        if self._many:
            return self.parts(await self._answers.rest())
        parts: list[Part] = []
        while pieces := await self._answers.next():  # as they come: one of them may be enough
            parts += self.parts(pieces)
        return parts

    def parts(self, pieces: list[tuple[int, Piece]]) -> list[Part]:
        """What has come, read."""
        self.tally.first_token(self._answers.first)
        return [self._part(piece) for _, piece in pieces]

    def _part(self, piece: Piece) -> Part:
        parser = self._parsers[piece.answer]
        if parser is None:
            deltas: list[Delta] = [Content(str.__str__(piece))] if piece else []
            end = piece.finish_reason
        else:
            deltas = parser.feed(str.__str__(piece)) if piece else []
            end = piece.finish_reason
            if end is not None:
                deltas += parser.finish()
                if end == "stop" and parser.calls:
                    end = "tool_calls"
            if not self._many:
                deltas = self._first_call(piece.answer, deltas, parser)
        if piece.completion is not None:
            self.tally.add(0, piece.completion)
        return Part(piece.answer, deltas, piece, end)

    def _first_call(self, answer: int, deltas: list[Delta], parser: Parser) -> list[Delta]:
        """What of `deltas` is the first call, or before it; what follows ends the answer."""
        kept = []
        for delta in deltas:
            after = self._calls[answer] and not isinstance(delta, CallArguments)
            self._calls[answer] += isinstance(delta, CallStart)
            if self._calls[answer] < 2 and not after:
                kept.append(delta)
        if parser.called or self._calls[answer] > 1:
            self._answers.cut(0, answer)
        return kept

    @property
    def cached_tokens(self) -> int:
        """Of the prompt; known once the first part has come."""
        return self._answers.cached_tokens

    async def respond(
        self,
        request: Request,
        events: Events | None,
        whole: Callable[[list[Part]], Any],
    ) -> Response:
        """The answer as a stream of events, or at once where `events` is none."""
        if events is not None:
            exchange_of(request).streamed = True
            return EventStream(events, self._answers)
        async with watching(request.receive, self._answers):
            parts = await self.rest()
        return json_response(whole(parts))


async def begin(service: Service, exchange: Exchange, place: Place, body: ChatRequest) -> Conversation:
    """Puts a conversation to the model. `body`: the request, in OpenAI's form whatever it came in."""
    model = await service.open(exchange, body.model)
    ready = await prepare(service, model, body)
    place.grow(ready.job.params.n)
    return converse(service, exchange, model, body, ready)


def converse(
    service: Service, exchange: Exchange, model: ServedModel, body: ChatRequest, ready: Prepared
) -> Conversation:
    """Puts to the model what prepare() has made of the request."""
    job, tools, dialect = ready.job, ready.choice.tools, ready.dialect
    exchange.model, exchange.prompt_tokens = model.id, len(job.tokens)
    parsers: list[Parser | None] = [None] * job.params.n
    if dialect.finds(tools):
        prompt = _end_of(model, job.tokens)
        parsers = [dialect.parser(tools=tools, prompt=prompt) for _ in range(job.params.n)]
    answers = start(service, model, [job], body, exchange)
    return Conversation(model, job, answers, exchange, parsers, ready.choice.many)


@dataclass(frozen=True)
class Prepared:
    """A request ready for the engine. choice: the tools that the model may or must call. dialect: in which."""

    job: Job
    choice: ToolChoice
    dialect: Dialect


async def prepare(service: Service, model: ServedModel, body: ChatRequest) -> Prepared:
    """The prompt's tokens with their parameters, and what the answer may be."""
    compiles = tool_choice(body).forced or asked_constraint(body) is not None
    return await service.in_worker(lambda: prepared(service.options, model, body), compiles)


def prepared(options: ServeOptions, model: ServedModel, body: ChatRequest) -> Prepared:
    """As prepare(), at once, on any thread."""
    template = model.llm.template
    if len(body.messages) > options.max_messages:
        raise bad_request(
            f"messages: expected at most {options.max_messages}, got {len(body.messages)}", "messages"
        )
    params = chat_params(body, model.defaults, options, template)
    arguments = template_arguments(body.chat_template_kwargs, body.reasoning_effort, template, options)
    choice, text = tool_choice(body), asked_constraint(body)
    if visible := model.visible_tokens:
        params = replace(params, visible_tokens=visible)
    try:
        tokens = template.encode(body.messages, tools=choice.tools, **arguments)
        constraint, dialect = answer_constraint(model.llm, model.dialect, choice, text, _end_of(model, tokens))
        constrained = replace(params, constraint=constraint) if constraint else params
        return Prepared(model.llm.job(tokens, constrained, trusted=False), choice, dialect)
    except PyllmError as error:
        if str(error).startswith("constraint: "):
            raise refused(error, "tools" if choice.forced else field_of(body)) from None
        raise from_pyllm(error, frozenset(ChatRequest.__struct_fields__)) from None


def _end_of(model: ServedModel, tokens: list[int]) -> str:
    return model.llm.tokenizer.decode(tokens[-_PROMPT_END:])


def start(
    service: Service, model: ServedModel, jobs: Sequence[Work[_T]], body: ChatRequest | Any, exchange: Exchange
) -> Answers[_T]:
    """Submits the request's jobs; they end with the exchange at the latest."""
    salt = service.salt(exchange, body.cache_salt)
    try:
        answers = model.engine.start(jobs, priority=body.priority or 0, cache_salt=salt)
    except PyllmError as error:
        raise from_pyllm(error, frozenset(body.__struct_fields__)) from None
    exchange.stack.callback(_settle, exchange, answers)
    return answers


def _settle(exchange: Exchange, answers: Answers[Any]) -> None:
    """Ends what still runs; the tokens of answers that were cut off count as well."""
    answers.close()
    exchange.completion_tokens = max(exchange.completion_tokens, answers.generated)
