"""A conversation's answers, whatever the form in which they were asked for and are given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.parsers import Content, Parser
from pyllm.server.errors import bad_request, from_pyllm
from pyllm.server.exchange import Exchange, exchange_of
from pyllm.server.fields import chat_params, template_arguments
from pyllm.server.protocol import ChatRequest
from pyllm.server.stream import EventStream, json_response, watching
from pyllm.server.tally import Tally

if TYPE_CHECKING:
    from pyllm.completion import Completion, Piece
    from pyllm.generation import Job, Work
    from pyllm.parsers import Delta
    from pyllm.server.admission import Place
    from pyllm.server.engine import Answers
    from pyllm.server.service import ServedModel, Service

_T = TypeVar("_T")
_PROMPT_END = 64  # tokens of a prompt that show whether it opens the model's reasoning


@dataclass(frozen=True, slots=True)
class Part:
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
    ) -> None:
        self.model = model
        self.n = job.params.n
        self.tally = Tally(exchange, 1)
        self._answers = answers
        self._parsers = parsers

    async def next(self) -> list[Part]:
        """At least one part; none when all answers have ended. ApiError and ClientLeftError end it early."""
        pieces = await self._answers.next()
        if pieces:
            self.tally.first_token()
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
        if piece.completion is not None:
            self.tally.add(0, piece.completion)
        return Part(piece.answer, deltas, piece, end)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt; known once the first part has come."""
        return self._answers.cached_tokens

    async def respond(
        self,
        request: Request,
        frames: Callable[[], AsyncIterator[bytes]] | None,
        whole: Callable[[list[Part]], Any],
    ) -> Response:
        """The answer as a stream of events, or at once where `frames` is none."""
        if frames is not None:
            exchange_of(request).streamed = True
            return EventStream(frames(), self._answers)
        parts: list[Part] = []
        async with watching(request.receive, self._answers):
            while more := await self.next():
                parts += more
        return json_response(whole(parts))


async def begin(service: Service, exchange: Exchange, place: Place, body: ChatRequest) -> Conversation:
    """Puts a conversation to the model. `body`: the request, in OpenAI's form whatever it came in."""
    model = service.model(body.model)
    job, tools = await prepare(service, model, body)
    place.grow(job.params.n)
    exchange.model, exchange.prompt_tokens = model.id, len(job.tokens)
    prompt = model.llm.tokenizer.decode(job.tokens[-_PROMPT_END:])
    parsers = [model.parser(tools, prompt) for _ in range(job.params.n)]
    answers = start(service, model, [job], body, exchange)
    return Conversation(model, job, answers, exchange, parsers)


async def prepare(
    service: Service, model: ServedModel, body: ChatRequest
) -> tuple[Job, list[dict[str, Any]] | None]:
    """The prompt's tokens with their parameters, and the tools that the model may call."""
    options, template = service.options, model.llm.template
    if len(body.messages) > options.max_messages:
        raise bad_request(
            f"messages: expected at most {options.max_messages}, got {len(body.messages)}", "messages"
        )
    params = chat_params(body, model.defaults, options, template)
    arguments = template_arguments(body.chat_template_kwargs, body.reasoning_effort, template, options)
    tools = body.tools if body.tools and body.tool_choice != "none" else None
    if visible := model.visible_tokens:
        params = replace(params, visible_tokens=visible)

    def encode() -> Job:
        return model.llm.job(template.encode(body.messages, tools=tools, **arguments), params)

    try:
        return await service.in_worker(encode), tools
    except PyllmError as error:
        raise from_pyllm(error, frozenset(ChatRequest.__struct_fields__)) from None


def start(
    service: Service, model: ServedModel, jobs: Sequence[Work[_T]], body: ChatRequest | Any, exchange: Exchange
) -> Answers[_T]:
    """Submits the request's jobs; they end with the exchange at the latest."""
    salt = service.salt(exchange, body.cache_salt)
    try:
        answers = model.engine.start(jobs, priority=body.priority or 0, cache_salt=salt)
    except PyllmError as error:
        raise from_pyllm(error, frozenset(body.__struct_fields__)) from None
    exchange.stack.callback(answers.close)
    return answers
