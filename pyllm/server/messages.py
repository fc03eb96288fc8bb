"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyllm.parsers import CallStart, Content, Reasoning, merge
from pyllm.server.anthropic import (
    AnswerMessage,
    CountRequest,
    InputTokens,
    MessagesRequest,
    Usage,
    chat_request,
    error_message,
    input_of,
)
from pyllm.server.conversation import begin, prepare
from pyllm.server.errors import ApiError
from pyllm.server.exchange import new_id
from pyllm.server.stream import frame, json_response

if TYPE_CHECKING:
    from pyllm.completion import Piece
    from pyllm.parsers import Delta
    from pyllm.server.conversation import Conversation, Part
    from pyllm.server.service import Service

_SIGNATURE = "pyllm"  # of thinking: clients send it back, nobody checks it
_encode = msgspec.json.Encoder().encode


class Messages:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Answer a conversation in Anthropic's form, whole or as a stream of events."""
        service = self._service
        exchange, place, body, _ = await service.admit(request, MessagesRequest)
        template = (await service.open(exchange, body.model)).llm.template
        try:
            conversation = await begin(service, exchange, place, chat_request(body, template.source))
        except ApiError as error:
            raise error.named("response_format", "output_config.format") from None
        writer = _Writer(conversation)
        return await conversation.respond(request, writer if body.stream else None, writer.whole)

    async def count_tokens(self, request: Request) -> Response:
        """How many tokens a conversation has as a prompt."""
        service = self._service
        exchange, _, body, _ = await service.admit(request, CountRequest)
        model = await service.open(exchange, body.model)
        prepared = await prepare(service, model, chat_request(body, model.llm.template.source))
        return json_response(InputTokens(len(prepared.job.tokens)))


def stop_reason(part: Part) -> tuple[str, str | None]:
    """Anthropic's word for why an answer ended, and the stop string that was met."""
    if part.end == "tool_calls":
        return "tool_use", None
    if part.end == "length":
        return "max_tokens", None
    met = part.completion.finish_detail if part.completion else ""
    return ("stop_sequence", met) if met else ("end_turn", None)


class _Writer:
    """Writes one answer."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._id = f"msg_{new_id()}"
        self._begun = False
        self._blocks = -1  # index of the open block, of those begun
        self._open = ""  # its type

    def whole(self, parts: list[Part]) -> AnswerMessage:
        """All of it at once."""
        message = merge(delta for part in parts for delta in part.deltas)
        blocks: list[dict[str, Any]] = []
        if message.reasoning:
            blocks.append({"type": "thinking", "thinking": message.reasoning, "signature": _SIGNATURE})
        if message.content:
            blocks.append({"type": "text", "text": message.content})
        for call in message.calls:
            blocks.append(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": input_of(call.arguments)}
            )
        return AnswerMessage(
            self._id, self._conversation.model.id, blocks, *stop_reason(parts[-1]), self._usage()
        )

    def _usage(self) -> Usage:
        usage = self._conversation.tally.usage()
        cached = self._conversation.cached_tokens
        return Usage(usage.prompt_tokens - cached, usage.completion_tokens, cached)

    def first(self) -> bytes:
        return b""  # the first event tells the usage, which the first token brings

    def of(self, pieces: list[tuple[int, Piece]]) -> bytes:
        parts, events = self._conversation.parts(pieces), []
        if not self._begun:
            self._begun = True
            start = AnswerMessage(self._id, self._conversation.model.id, [], None, None, self._usage())
            events += [_event("message_start", message=start), _event("ping")]
        for part in parts:
            for delta in part.deltas:
                self._write(delta, events)
            if part.end is not None:
                self._close(events)
                reason, met = stop_reason(part)
                ending = {"stop_reason": reason, "stop_sequence": met}
                events.append(_event("message_delta", delta=ending, usage=self._usage()))
                events.append(_event("message_stop"))
        return b"".join(events)

    def last(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        return b"event: error\n" + frame(error_message(error))

    def _write(self, delta: Delta, events: list[bytes]) -> None:
        if isinstance(delta, CallStart):
            self._begin(events, {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}})
            return
        if isinstance(delta, Content):
            if self._open != "text":
                self._begin(events, {"type": "text", "text": ""})
            change = {"type": "text_delta", "text": delta.text}
        elif isinstance(delta, Reasoning):
            if self._open != "thinking":
                self._begin(events, {"type": "thinking", "thinking": "", "signature": ""})
            change = {"type": "thinking_delta", "thinking": delta.text}
        else:
            change = {"type": "input_json_delta", "partial_json": delta.text}
        events.append(_event("content_block_delta", index=self._blocks, delta=change))

    def _begin(self, events: list[bytes], block: dict[str, Any]) -> None:
        self._close(events)
        self._blocks += 1
        self._open = block["type"]
        events.append(_event("content_block_start", index=self._blocks, content_block=block))

    def _close(self, events: list[bytes]) -> None:
        if not self._open:
            return
        if self._open == "thinking":
            signature = {"type": "signature_delta", "signature": _SIGNATURE}
            events.append(_event("content_block_delta", index=self._blocks, delta=signature))
        self._open = ""
        events.append(_event("content_block_stop", index=self._blocks))


def _event(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encode({"type": name, **fields}) + b"\n\n"
