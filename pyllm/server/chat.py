"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pyllm.parsers import CallStart, Content, Reasoning, merge
from pyllm.server.conversation import begin
from pyllm.server.exchange import new_id
from pyllm.server.fields import refuse_not_honoured
from pyllm.server.logprobs import chat_logprobs
from pyllm.server.protocol import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    Delta,
    Function,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from pyllm.server.stream import DONE, frame, pattern

if TYPE_CHECKING:
    from pyllm.completion import Piece
    from pyllm.parsers import Delta as Parsed
    from pyllm.server.conversation import Conversation, Part
    from pyllm.server.errors import ApiError
    from pyllm.server.service import Service


class Chat:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        service = self._service
        exchange, place, body, document = await service.admit(request, ChatRequest)
        refuse_not_honoured(document)
        conversation = await begin(service, exchange, place, body)
        writer = ChatWriter(conversation, bool(body.stream_options and body.stream_options.include_usage))
        return await conversation.respond(request, writer if body.stream else None, writer.whole)


class ChatWriter:
    """Writes a conversation's answers in OpenAI's form."""

    def __init__(self, conversation: Conversation, include_usage: bool = False) -> None:
        self._conversation = conversation
        self._tokenizer = conversation.model.llm.tokenizer
        self._include_usage = include_usage
        self._id = f"chatcmpl-{new_id()}"
        self._created = int(time.time())
        self._content: list[Callable[[str], bytes]] = []  # of each answer, once it has begun

    def whole(self, parts: list[Part]) -> ChatCompletion:
        """All of it at once."""
        choices = []
        for index in range(self._conversation.n):
            own = [part for part in parts if part.answer == index]
            message = merge(delta for part in own for delta in part.deltas)
            done = own[-1].completion
            logprobs = done.logprobs if done else None
            calls = [ToolCall(call.id, Function(call.name, call.arguments)) for call in message.calls]
            choices.append(
                ChatChoice(
                    index,
                    ChatMessage(
                        "assistant",
                        message.content or (None if calls else ""),
                        message.reasoning or None,
                        calls or None,
                    ),
                    chat_logprobs(self._tokenizer, logprobs),
                    own[-1].end or "",
                )
            )
        tally = self._conversation.tally
        model = self._conversation.model.id
        return ChatCompletion(self._id, self._created, model, choices, tally.usage(), tally.timings())

    def first(self) -> bytes:
        return b""  # nothing before the first token, which may never come

    def of(self, pieces: list[tuple[int, Piece]]) -> bytes:
        frames: list[bytes] = []
        if not self._content:
            answers = range(self._conversation.n)
            frames = [self._frame(answer, Delta(role="assistant", content="")) for answer in answers]
            self._content = [self._pattern(answer) for answer in answers]
        for part in self._conversation.parts(pieces):
            self._write(part, frames)
        return b"".join(frames)

    def last(self) -> bytes:
        if not self._include_usage:
            return DONE
        last = self._chunk(None)
        last.usage, last.timings = self._conversation.tally.usage(), self._conversation.tally.timings()
        return frame(last) + DONE

    def failed(self, error: ApiError) -> bytes:
        return frame(error.document())

    def _write(self, part: Part, frames: list[bytes]) -> None:
        logprobs = chat_logprobs(self._tokenizer, part.piece.logprobs) if part.piece.logprobs else None
        if logprobs and not part.deltas:
            frames.append(self._frame(part.answer, Delta(content=""), logprobs))
        for delta in part.deltas:
            if logprobs is None and isinstance(delta, Content):
                frames.append(self._content[part.answer](delta.text))
            else:
                frames.append(self._frame(part.answer, _delta(delta), logprobs))
                logprobs = None
        if part.end is not None:
            chunk = self._chunk(ChatChunkChoice(part.answer, Delta(), None, part.end))
            if not self._include_usage:
                chunk.timings = self._conversation.tally.timings()
            frames.append(frame(chunk))

    def _pattern(self, answer: int) -> Callable[[str], bytes]:
        return pattern(lambda text: self._frame(answer, Delta(content=text)))

    def _frame(self, answer: int, delta: Delta, logprobs: ChatLogprobs | None = None) -> bytes:
        return frame(self._chunk(ChatChunkChoice(answer, delta, logprobs)))

    def _chunk(self, choice: ChatChunkChoice | None) -> ChatChunk:
        model = self._conversation.model.id
        chunk = ChatChunk(self._id, self._created, model, [choice] if choice else [])
        if self._include_usage:
            chunk.usage = None
        return chunk


def _delta(delta: Parsed) -> Delta:
    if isinstance(delta, Content):
        return Delta(content=delta.text)
    if isinstance(delta, Reasoning):
        return Delta(reasoning_content=delta.text)
    if isinstance(delta, CallStart):
        call = ToolCallDelta(delta.index, delta.id, "function", FunctionDelta(delta.name, ""))
    else:
        call = ToolCallDelta(delta.index, function=FunctionDelta(arguments=delta.text))
    return Delta(tool_calls=[call])
