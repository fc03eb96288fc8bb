"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.server.conversation import start
from pyllm.server.errors import bad_request, from_pyllm
from pyllm.server.exchange import Exchange, new_id, unless_left
from pyllm.server.fields import completion_params, refuse_not_honoured
from pyllm.server.logprobs import CompletionLogprobsWriter
from pyllm.server.prompts import texts_or_tokens
from pyllm.server.protocol import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from pyllm.server.score import prompt_logprobs
from pyllm.server.stream import DONE, EventStream, frame, json_response, pattern, watching
from pyllm.server.structure import asked_constraint, field_of, refused
from pyllm.server.tally import Tally

if TYPE_CHECKING:
    from pyllm.completion import Completion as Done
    from pyllm.completion import Logprob, Piece
    from pyllm.generation import Job
    from pyllm.llm import LLM
    from pyllm.server.engine import Answers
    from pyllm.server.errors import ApiError
    from pyllm.server.options import ServeOptions
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service


class Completions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Continue one or several texts, whole or as a stream of events."""
        service = self._service
        exchange, place, body, document = await service.admit(request, CompletionRequest)
        refuse_not_honoured(document)
        model = await service.open(exchange, body.model)
        compiles = asked_constraint(body) is not None
        jobs = await service.in_worker(lambda: prepared(service.options, model, body), compiles)
        place.grow(sum(job.params.n for job in jobs))
        answers, writer = await begin(service, exchange, model, body, jobs)
        if body.stream:
            exchange.streamed = True
            return EventStream(writer, answers)
        async with watching(request.receive, answers):
            return json_response(writer.whole(await answers.rest()))


def prepared(options: ServeOptions, model: ServedModel, body: CompletionRequest) -> list[Job]:
    """The prompts' tokens with their parameters, on any thread."""
    if body.suffix and body.echo:
        raise bad_request("echo: not with suffix: the answer lies between the two", "echo")
    llm, params = model.llm, completion_params(body, model.defaults, options)
    if constraint := asked_constraint(body):
        params = replace(params, constraint=constraint)
    prompts = texts_or_tokens(body.prompt, "prompt")
    if not prompts:
        raise bad_request("prompt: expected at least one, got none", "prompt")
    if len(prompts) * params.n > options.max_n:
        raise bad_request(
            f"prompt: {len(prompts)} with n {params.n} are more than the {options.max_n} answers of a request",
            "prompt",
        )

    def encode(prompt: str | list[int]) -> list[int]:
        if body.suffix:
            return fill_in(llm, prompt, body.suffix)
        return llm.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt

    try:
        return [llm.job(encode(prompt), params, trusted=False) for prompt in prompts]
    except PyllmError as error:
        if str(error).startswith("constraint: "):
            raise refused(error, field_of(body)) from None
        raise from_pyllm(error, frozenset(CompletionRequest.__struct_fields__)) from None


async def begin(
    service: Service, exchange: Exchange, model: ServedModel, body: CompletionRequest, jobs: list[Job]
) -> tuple[Answers[Piece], CompletionWriter]:
    """Puts prompts to the model."""
    exchange.model, exchange.prompt_tokens = model.id, sum(len(job.tokens) for job in jobs)
    echoes = await _echoes(service, exchange, model, body, jobs) if body.echo else []
    answers = start(service, model, [] if body.max_tokens == 0 else jobs, body, exchange)
    return answers, CompletionWriter(model, jobs, answers, echoes, exchange, body)


async def _echoes(
    service: Service, exchange: Exchange, model: ServedModel, body: CompletionRequest, jobs: list[Job]
) -> list[_Echo]:
    """The prompts as they will be repeated; with log-probabilities where they are asked for."""
    prompts, echoes = texts_or_tokens(body.prompt, "prompt"), []
    left = threading.Event()
    exchange.stack.callback(left.set)
    options = {"cache_salt": service.salt(exchange, body.cache_salt), "priority": body.priority or 0}
    for prompt, job in zip(prompts, jobs, strict=True):
        text = prompt if isinstance(prompt, str) else model.llm.tokenizer.decode(job.tokens)
        items: list[tuple[int, Logprob | None]] = []
        if body.logprobs is not None:
            top = body.logprobs
            scoring = asyncio.ensure_future(
                asyncio.to_thread(prompt_logprobs, model.llm, job.tokens, top, left, options)
            )
            try:
                await unless_left(exchange.receive, scoring)
                scores = scoring.result()
            except PyllmError as error:
                raise from_pyllm(error, frozenset(CompletionRequest.__struct_fields__)) from None
            items = list(zip(job.tokens, scores, strict=True))
        echoes.append(_Echo(text, items))
    return echoes


def fill_in(llm: LLM, prompt: str | list[int], suffix: str) -> list[int]:
    try:
        return llm.tokenizer.encode_between(prompt, suffix)
    except PyllmError as error:
        raise bad_request(f"suffix: {error}", "suffix", "unsupported_field") from None


class _Echo:
    """A prompt to repeat."""

    def __init__(self, text: str, items: list[tuple[int, Logprob | None]]) -> None:
        self.text = text
        self.items = items


class CompletionWriter:
    """Writes one request's answers: choice number = prompt * n + answer."""

    def __init__(
        self,
        model: ServedModel,
        jobs: list[Job],
        answers: Answers[Piece],
        echoes: list[_Echo],
        exchange: Exchange,
        body: CompletionRequest,
    ) -> None:
        self._answers = answers
        self._model = model
        self._n = jobs[0].params.n
        self._count = len(jobs) * self._n
        self._echoes = echoes
        self._tally = Tally(exchange, len(jobs))
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._logprobs = body.logprobs is not None
        self._writers = [CompletionLogprobsWriter(model.llm.tokenizer) for _ in range(self._count)]
        self._id = f"cmpl-{new_id()}"
        self._created = int(time.time())
        self._echo_only = body.max_tokens == 0
        self._texts: dict[int, Callable[[str], bytes]] = {}  # of each choice, an event with some text

    def whole(self, pieces: list[tuple[int, Piece]]) -> Completion:
        """All of it at once."""
        choices = {number: self._echo_choice(number) for number in range(self._count)}
        if pieces:
            self._tally.first_token(self._answers.first)
        for job, piece in pieces:
            if piece.completion is not None:
                self._tally.add(job, piece.completion)
                self._finish(choices[job * self._n + piece.answer], piece.completion)
        done = self._document([choices[number] for number in range(self._count)])
        done.usage, done.timings = self._tally.usage(), self._tally.timings()
        return done

    def first(self) -> bytes:
        if not self._echoes:
            return b""
        echoed = [self._echo_choice(number) for number in range(self._count)]
        return b"".join(frame(self._chunk(choice)) for choice in echoed)

    def of(self, pieces: list[tuple[int, Piece]]) -> bytes:
        self._tally.first_token(self._answers.first)
        return b"".join([self._part(job, piece) for job, piece in pieces])

    def last(self) -> bytes:
        if not self._include_usage:
            return DONE
        last = self._document([])
        last.usage, last.timings = self._tally.usage(), self._tally.timings()
        return frame(last) + DONE

    def failed(self, error: ApiError) -> bytes:
        return frame(error.document())

    def _echo_choice(self, number: int) -> CompletionChoice:
        """A choice as far as its prompt goes."""
        choice = CompletionChoice(number, "", finish_reason="length" if self._echo_only else None)
        echo = self._echoes[number // self._n] if self._echoes else _Echo("", [])
        choice.text = echo.text
        if self._logprobs:
            choice.logprobs = self._writers[number].write(echo.items)
        return choice

    def _finish(self, choice: CompletionChoice, done: Done) -> None:
        choice.text += done.text
        choice.finish_reason = done.finish_reason
        if choice.logprobs is not None:
            _extend(choice.logprobs, self._writers[choice.index].write(_items(done.logprobs)))

    def _part(self, job: int, piece: Piece) -> bytes:
        number, text = job * self._n + piece.answer, str.__str__(piece)
        if piece.completion is None and not self._logprobs:
            if number not in self._texts:
                self._texts[number] = self._pattern(number)
            return self._texts[number](text)
        if piece.completion is not None:
            self._tally.add(job, piece.completion)
        logprobs = self._writers[number].write(_items(piece.logprobs)) if self._logprobs else None
        return frame(self._chunk(CompletionChoice(number, text, logprobs, piece.finish_reason)))

    def _pattern(self, number: int) -> Callable[[str], bytes]:
        return pattern(lambda text: frame(self._chunk(CompletionChoice(number, text))))

    def _chunk(self, choice: CompletionChoice) -> Completion:
        chunk = self._document([choice])
        if self._include_usage:
            chunk.usage = None
        elif choice.finish_reason:
            chunk.timings = self._tally.timings()
        return chunk

    def _document(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(self._id, self._created, self._model.id, choices)


def _items(logprobs: tuple[Logprob, ...] | None) -> list[tuple[int, Logprob | None]]:
    return [(item.token_id, item) for item in logprobs or ()]


def _extend(whole: CompletionLogprobs, part: CompletionLogprobs) -> None:
    whole.tokens += part.tokens
    whole.token_logprobs += part.token_logprobs
    whole.top_logprobs += part.top_logprobs
    whole.text_offset += part.text_offset
