"""POST /v1/responses, and GET and DELETE of those that are kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyllm.parsers import CallArguments, CallStart, Content, Reasoning
from pyllm.server.conversation import begin
from pyllm.server.errors import ApiError
from pyllm.server.exchange import Exchange, exchange_of
from pyllm.server.memory import Kept, Memory
from pyllm.server.responses_protocol import (
    Deleted,
    ResponseObject,
    ResponsesRequest,
    chat_request,
    input_messages,
    refuse_not_honoured,
    usage_of,
)
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.completion import Piece
    from pyllm.parsers import Delta
    from pyllm.server.conversation import Conversation, Part
    from pyllm.server.service import Service

_encode = msgspec.json.Encoder().encode


class Responses:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memory = Memory()

    async def create(self, request: Request) -> Response:
        """Answer in the form of OpenAI's Responses API, whole or as a stream of events."""
        service = self._service
        exchange, place, body, _ = await service.admit(request, ResponsesRequest)
        refuse_not_honoured(body)
        history = self._history(body, exchange)
        try:
            conversation = await begin(service, exchange, place, chat_request(body, history))
        except ApiError as error:
            raise error.named("response_format", "text.format") from None
        writer = ResponseWriter(conversation, body)

        def finished(response: ResponseObject) -> None:
            if body.store is not False:
                messages = history + input_messages(response.output)
                self._memory.keep(response.id, exchange.caller, messages, response)

        writer.finished = finished
        return await conversation.respond(request, writer if body.stream else None, writer.whole)

    async def get(self, request: Request) -> Response:
        """A kept answer."""
        kept = self._find(request.path_params["id"], exchange_of(request))
        return Response(kept.answer, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        """Forget a kept answer."""
        id, exchange = request.path_params["id"], exchange_of(request)
        self._find(id, exchange)
        self._memory.drop(id, exchange.caller)
        return json_response(Deleted(id))

    def _history(self, body: ResponsesRequest, exchange: Exchange) -> list[dict[str, Any]]:
        """All messages but the instructions, which hold for one answer only."""
        before: list[dict[str, Any]] = []
        if body.previous_response_id is not None:
            before = msgspec.json.decode(self._find(body.previous_response_id, exchange).messages)
        return before + input_messages(body.input)

    def _find(self, id: str, exchange: Exchange) -> Kept:
        kept = self._memory.find(id, exchange.caller)
        if kept is None:
            raise ApiError(
                404,
                f"previous_response_id: {id!r:.80} is not kept here (any more)",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return kept


class ResponseWriter:
    """Writes one answer: items grow as deltas come, and every change is an event."""

    def __init__(self, conversation: Conversation, body: ResponsesRequest) -> None:
        self._conversation = conversation
        self._number = 0
        self._item: dict[str, Any] | None = None  # the one that grows, the last of the output
        self._text: list[str] = []  # of it
        self.finished: Callable[[ResponseObject], None] = lambda response: None
        self._response = ResponseObject(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            model=conversation.model.id,
            status="in_progress",
            output=[],
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            previous_response_id=body.previous_response_id,
            store=body.store is not False,
            temperature=body.temperature,
            top_p=body.top_p,
            tool_choice=body.tool_choice or "auto",
            tools=body.tools or [],
            parallel_tool_calls=body.parallel_tool_calls is not False,
            text=body.text if body.text and body.text.get("format") else {"format": {"type": "text"}},
        )

    def whole(self, parts: list[Part]) -> ResponseObject:
        """All of it at once."""
        for part in parts:
            for delta in part.deltas:
                self._write(delta)
        self._end(parts[-1])
        return self._response

    def first(self) -> bytes:
        created = self._event("response.created", response=self._response)
        return created + self._event("response.in_progress", response=self._response)

    def of(self, pieces: list[tuple[int, Piece]]) -> bytes:
        events: list[bytes] = []
        for part in self._conversation.parts(pieces):
            for delta in part.deltas:
                events += self._write(delta)
            if part.end is not None:
                events += self._end(part)
        return b"".join(events)

    def last(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        self._response.status = "failed"
        self._response.error = {"code": error.code or "server_error", "message": str(error)}
        return self._event("response.failed", response=self._response)

    def _end(self, part: Part) -> list[bytes]:
        cut = part.end == "length"
        events = self._close("incomplete" if cut else "completed")
        response = self._response
        response.status = "incomplete" if cut else "completed"
        response.incomplete_details = {"reason": "max_output_tokens"} if cut else None
        response.usage = usage_of(self._conversation.tally.usage())
        self.finished(response)
        return [*events, self._event(f"response.{response.status}", response=response)]

    def _write(self, delta: Delta) -> list[bytes]:
        if isinstance(delta, CallStart):
            call = {"type": "function_call", "call_id": delta.id, "name": delta.name, "arguments": ""}
            return self._begin("fc", call)
        events: list[bytes] = []
        if isinstance(delta, Content) and self._kind != "message":
            events = self._begin("msg", {"type": "message", "role": "assistant", "content": []})
            events.append(self._part_event("added", {"type": "output_text", "text": "", "annotations": []}))
        elif isinstance(delta, Reasoning) and self._kind != "reasoning":
            events = self._begin("rs", {"type": "reasoning", "summary": [], "content": []})
        self._text.append(delta.text)
        if isinstance(delta, CallArguments):
            return [self._grow("function_call_arguments", delta.text)]
        if isinstance(delta, Reasoning):
            return [*events, self._grow("reasoning_text", delta.text, content_index=0)]
        return [*events, self._grow("output_text", delta.text, content_index=0, logprobs=[])]

    @property
    def _kind(self) -> str:
        return str(self._item["type"]) if self._item else ""

    def _begin(self, prefix: str, item: dict[str, Any]) -> list[bytes]:
        events = self._close("completed")
        self._item = {"id": f"{prefix}_{uuid.uuid4().hex}", **item, "status": "in_progress"}
        self._response.output.append(self._item)
        return [*events, self._event("response.output_item.added", output_index=self._place, item=self._item)]

    def _close(self, status: str) -> list[bytes]:
        """Completes the item that grows."""
        item, text = self._item, "".join(self._text)
        if item is None:
            return []
        events = []
        if item["type"] == "function_call":
            item["arguments"] = text
            events.append(self._done("function_call_arguments", arguments=text, name=item["name"]))
        elif item["type"] == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": text}]
            events.append(self._done("reasoning_text", text=text, content_index=0))
        else:
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            item["content"] = [part]
            events.append(self._done("output_text", text=text, content_index=0, logprobs=[]))
            events.append(self._part_event("done", part))
        item["status"] = status
        events.append(self._event("response.output_item.done", output_index=self._place, item=item))
        self._item, self._text = None, []
        return events

    @property
    def _place(self) -> int:
        return len(self._response.output) - 1

    def _grow(self, what: str, text: str, /, **more: Any) -> bytes:
        return self._of_item(f"response.{what}.delta", delta=text, **more)

    def _done(self, what: str, /, **more: Any) -> bytes:
        return self._of_item(f"response.{what}.done", **more)

    def _part_event(self, what: str, part: dict[str, Any]) -> bytes:
        return self._of_item(f"response.content_part.{what}", content_index=0, part=part)

    def _of_item(self, event: str, /, **fields: Any) -> bytes:
        id = self._item["id"] if self._item else ""
        return self._event(event, item_id=id, output_index=self._place, **fields)

    def _event(self, event: str, /, **fields: Any) -> bytes:
        data = _encode({"type": event, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
