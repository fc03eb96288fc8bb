"""Anthropic's forms: its requests become OpenAI's, its answers are written from ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from pyllm.server.errors import ApiError, bad_request
from pyllm.server.protocol import ChatRequest, Positive

Blocks = str | list[dict[str, Any]]


class InputMessage(Struct, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: Blocks


class ToolChoice(Struct, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    """What the model may think; how long is its own decision here."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Positive | None = None
    display: str | None = None


class CountRequest(Struct, kw_only=True):
    """What a prompt is made of."""

    model: str
    messages: list[InputMessage]
    system: Blocks | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_format: Any = None  # the older name of output_config.format
    output_config: dict[str, Any] | None = None
    # Accepted, without effect on the answer.
    cache_control: Any = None
    context_management: Any = None
    # Known, and refused by name.
    mcp_servers: list[Any] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    max_tokens: Positive
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_k: int | None = None
    top_p: float | None = None
    # Accepted, without effect on the answer.
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    # Known, and refused by name.
    container: Any = None


class Usage(Struct):
    """`input_tokens`: those that had to be computed; the others of the prompt were in the cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class AnswerMessage(Struct):
    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: Usage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class InputTokens(Struct):
    input_tokens: int


class ErrorBody(Struct):
    type: str
    message: str


class ErrorMessage(Struct):
    error: ErrorBody
    type: Literal["error"] = "error"


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_message(error: ApiError) -> ErrorMessage:
    """An error in Anthropic's form."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return ErrorMessage(ErrorBody(kind, str(error)))


def chat_request(body: CountRequest, template_source: str) -> ChatRequest:
    """The same request in OpenAI's form. ApiError names what has no counterpart."""
    for name in ("mcp_servers", "container"):
        if getattr(body, name, None):
            raise bad_request(f"{name}: this server cannot honour it", name, "unsupported_field")
    format = body.output_format or (body.output_config or {}).get("format")
    if format is not None and (not isinstance(format, dict) or format.get("type") != "json_schema"):
        raise bad_request(
            "output_config.format: expected an object with type json_schema and schema", "output_config"
        )
    choice = body.tool_choice
    messages = _system(body.system)
    for i, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{i}]")
    request = ChatRequest(
        model=body.model,
        messages=messages,
        tools=_tools(body.tools or []) or None,
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=not choice.disable_parallel_tool_use if choice else None,
        response_format={**format, "strict": True} if format else None,
    )
    if body.thinking:
        for switch in ("enable_thinking", "thinking"):
            if switch in template_source:
                request.chat_template_kwargs = {switch: body.thinking.type != "disabled"}
                break
    if isinstance(body, MessagesRequest):
        request.max_tokens = body.max_tokens
        request.stop = body.stop_sequences
        request.temperature, request.top_k, request.top_p = body.temperature, body.top_k, body.top_p
    return request


def _tool_choice(choice: ToolChoice | None) -> str | dict[str, Any] | None:
    if choice is None or choice.type == "auto":
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type


def _system(system: Blocks | None) -> list[dict[str, Any]]:
    text = _text(system or "", "system")
    return [{"role": "system", "content": text}] if text else []


def _messages(message: InputMessage, place: str) -> list[dict[str, Any]]:
    """Results of tools are messages of their own in OpenAI's form."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[dict[str, Any]] = []
    texts, thoughts, calls = [], [], []
    for i, block in enumerate(message.content):
        where, kind = f"{place}.content[{i}]", block.get("type")
        if kind == "tool_result":
            text = _text(block.get("content") or "", f"{where}.content")
            results.append(
                {"role": "tool", "tool_call_id": _word(block, "tool_use_id", where), "content": text}
            )
        elif kind == "tool_use":
            function = {"name": _word(block, "name", where), "arguments": block.get("input") or {}}
            calls.append({"id": _word(block, "id", where), "type": "function", "function": function})
        elif kind == "thinking":
            thoughts.append(_word(block, "thinking", where))
        elif kind != "redacted_thinking":
            texts.append(_text([block], where))
    own: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
    if thoughts:
        own["reasoning_content"] = "\n".join(thoughts)
    if calls:
        own["tool_calls"] = calls
    return results + ([own] if texts or thoughts or calls or not results else [])


def _text(blocks: Blocks, place: str) -> str:
    """The text of blocks; ApiError for those that hold something else."""
    if isinstance(blocks, str):
        return blocks
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise bad_request(f"{place}: expected text or a list of blocks", place)
    found = []
    for i, block in enumerate(blocks):
        if block.get("type") != "text":
            kind = str(block.get("type"))
            raise bad_request(f"{place}[{i}]: expected a block of type text, got {kind!r:.60}", place)
        found.append(_word(block, "text", f"{place}[{i}]"))
    return "\n".join(found)


def _word(block: Mapping[str, Any], name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise bad_request(f"{place}.{name}: expected text, got {type(value).__name__}", place)
    return value


def _tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The client's own tools; those that Anthropic's servers run are left out."""
    found = []
    for i, tool in enumerate(tools):
        if tool.get("type") in (None, "custom"):
            function = {
                "name": _word(tool, "name", f"tools[{i}]"),
                "description": tool.get("description") or "",
                "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
            }
            found.append({"type": "function", "function": function})
    return found


def input_of(arguments: str) -> Any:
    """A tool call's arguments as a value; what is no JSON object is kept as text under a name."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}
