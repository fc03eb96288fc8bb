"""The forms of OpenAI's Responses API: its requests become chat requests, its answers are lists of items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from pyllm.server.errors import bad_request
from pyllm.server.protocol import CacheSalt, ChatRequest, Positive, Priority, Usage

Message = dict[str, Any]


class ReasoningOptions(Struct, kw_only=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(Struct, kw_only=True):
    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None
    # Accepted, without effect on the answer.
    include: list[str] | None = None
    user: str | None = None
    service_tier: str | None = None
    stream_options: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class InputDetails(Struct):
    cached_tokens: int


class OutputDetails(Struct):
    reasoning_tokens: int = 0


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseObject(Struct):
    """`output`: items of type reasoning, message and function_call."""

    id: str
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    output: list[dict[str, Any]]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    previous_response_id: str | None
    store: bool
    temperature: float | None
    top_p: float | None
    tool_choice: Any
    tools: list[dict[str, Any]]
    usage: ResponseUsage | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    parallel_tool_calls: bool = True
    text: dict[str, Any] = msgspec.field(default_factory=lambda: {"format": {"type": "text"}})
    truncation: Literal["disabled"] = "disabled"
    object: Literal["response"] = "response"


class Deleted(Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


def usage_of(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        usage.prompt_tokens,
        InputDetails(usage.prompt_tokens_details.cached_tokens),
        usage.completion_tokens,
        OutputDetails(),
        usage.total_tokens,
    )


def refuse_not_honoured(body: ResponsesRequest) -> None:
    """ApiError that names the first field that would be ignored."""
    wrong = {
        "truncation": body.truncation not in (None, "disabled"),
        "background": bool(body.background),
        "conversation": body.conversation is not None,
        "prompt": body.prompt is not None,
        "top_logprobs": bool(body.top_logprobs),
        "max_tool_calls": body.max_tool_calls is not None,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise bad_request(f"{name}: this server cannot honour it", name, "unsupported_field")


def chat_request(body: ResponsesRequest, messages: list[Message]) -> ChatRequest:
    """The same request in the form of a chat; `messages`: all of them but the instructions, which hold for one
    answer only."""
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return ChatRequest(
        model=body.model,
        messages=system + messages,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        tools=_tools(body.tools or []) or None,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text or {}),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        cache_salt=body.cache_salt,
        priority=body.priority,
    )


def _format(text: dict[str, Any]) -> dict[str, Any] | None:
    format = text.get("format")
    if format is not None and not isinstance(format, dict):
        raise bad_request("text.format: expected an object with type", "text.format")
    return format


def input_messages(given: str | Sequence[dict[str, Any]]) -> list[Message]:
    """Items as messages of a chat: calls and reasoning join the assistant's message that they belong to."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    for i, item in enumerate(given):
        kind = item.get("type", "message")
        if kind == "message":
            message = {
                "role": item.get("role"),
                "content": _content(item.get("content"), f"input[{i}].content"),
            }
            last = messages[-1] if messages else None
            if message["role"] == "assistant" and last and last["role"] == "assistant" and not last["content"]:
                last["content"] = message["content"]  # after its reasoning
            else:
                messages.append(message)
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            _assistant(messages).setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            text = _content(item.get("output"), f"input[{i}].output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        elif kind == "reasoning":
            if text := _reasoning(item.get("content"), f"input[{i}].content"):
                messages.append({"role": "assistant", "content": "", "reasoning_content": text})
        else:
            raise bad_request(
                f"input[{i}].type: expected message, function_call, function_call_output or reasoning, "
                f"got {str(kind)!r:.60}",
                "input",
            )
    return messages


def _assistant(messages: list[Message]) -> Message:
    """The assistant's message at the end, made where there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _content(content: Any, place: str) -> Any:
    """Text or parts; refusals are text."""
    if isinstance(content, list):
        return [
            {"type": "text", "text": part["refusal"]}
            if isinstance(part, dict) and isinstance(part.get("refusal"), str)
            else part
            for part in content
        ]
    if not isinstance(content, str):
        raise bad_request(f"{place}: expected text or a list of parts, got {type(content).__name__}", "input")
    return content


def _reasoning(content: Any, place: str) -> str:
    """The text of a reasoning item's parts; others than OpenAI's own have some."""
    parts = content if isinstance(content, list) else [] if content is None else [content]
    texts = [part.get("text", "") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise bad_request(f"{place}: expected a list of parts with text", "input")
    return "".join(map(str, texts))


def _tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Functions; other kinds of tools, which OpenAI's servers run, are left out."""
    names = ("name", "description", "parameters", "strict")
    return [
        {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}
        for tool in tools
        if tool.get("type") == "function" and isinstance(tool.get("name"), str)
    ]
