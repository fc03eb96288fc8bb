"""--strict: fields that no part of a request's form knows are refused, wherever they stand."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

import msgspec

from pyllm.server.anthropic import CountRequest
from pyllm.server.errors import bad_request
from pyllm.server.responses_protocol import ResponsesRequest

# What an object, or each of a list of them, may have; None: anything.
Known: TypeAlias = "Mapping[str, Known | None]"


def refuse_unknown(document: Mapping[str, Any], form: type[msgspec.Struct]) -> None:
    """ApiError 400 with the path of the first field that `form` does not know."""
    for place in _unknown(document, _known(form), ""):
        raise bad_request(f"unknown field {place!r:.200}; the server was started with --strict", place[:200])


def _unknown(value: Any, known: Known | None, place: str) -> Iterator[str]:
    if known is None:
        return
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unknown(item, known, f"{place}[{i}]")
    elif isinstance(value, dict):
        if known is _TOOL and value.get("type") not in (None, "function", "custom"):
            return  # of a kind that other servers run, with fields of its own
        for name, item in value.items():
            path = f"{place}.{name}" if place else name
            if name not in known:
                yield path
            else:
                yield from _unknown(item, known[name], path)


@cache
def _known(form: type[msgspec.Struct]) -> Known:
    """By the form's own fields, and by the tables below where those are plain values."""
    table = next((table for base, table in _FORMS.items() if issubclass(form, base)), _CHAT)
    types = typing.get_type_hints(form)
    return {
        name: table[name] if name in table else _of_type(types[field])
        for field, name in zip(form.__struct_fields__, form.__struct_encode_fields__, strict=True)
    }


def _of_type(type: Any) -> Known | None:
    """What the structure in a field's type knows, if there is one: `X | None`, `list[X]`."""
    if isinstance(type, typing.ForwardRef | str):
        return None
    if hasattr(type, "__struct_fields__"):
        return _known(type)
    return next((found for inner in typing.get_args(type) if (found := _of_type(inner))), None)


def _names(*names: str, **nested: Known | None) -> Known:
    return {**dict.fromkeys(names), **nested}


# Kinds of parts and items that cannot be honoured are known here: where they are read, they are told better.
_PART = _names(
    "type", "text", "refusal", "annotations", "logprobs", "image_url", "input_audio", "file", "cache_control"
)
_CALL = _names("id", "type", "index", function=_names("name", "arguments"))
_FUNCTION = _names("name", "description", "parameters", "strict")
_TOOL: Known = {**_FUNCTION, **_names("type", "input_schema", "cache_control", function=_FUNCTION)}
_CHOICE = _names("type", "name", function=_names("name"))
_FORMAT = _names(
    *("type", "name", "description", "schema", "strict", "pattern", "regex", "grammar"),
    json_schema=_names("name", "description", "schema", "strict"),
)
_CHAT = _names(
    messages=_names(
        *("role", "name", "tool_call_id", "reasoning_content", "reasoning", "refusal", "annotations", "audio"),
        "function_call",
        content=_PART,
        tool_calls=_CALL,
    ),
    tools=_TOOL,
    tool_choice=_CHOICE,
    response_format=_FORMAT,
    grammar=_names("type", "value", "regex", "gbnf", "lark", "grammar", "json"),
    structured_outputs=_names("json", "regex", "choice", "grammar", "json_object"),
)
_RESULT = _names("type", "text", "source", "cache_control")
_BLOCK = _names(
    *("type", "text", "cache_control", "citations", "id", "name", "input", "tool_use_id", "is_error"),
    *("thinking", "signature", "data", "source", "title", "context"),
    content=_RESULT,
)
_OUTPUT = _names("type", "schema", "name")
_MESSAGES = _names(
    messages=_names("role", content=_BLOCK),
    system=_BLOCK,
    tools=_TOOL,
    output_format=_OUTPUT,
    output_config=_names("effort", format=_OUTPUT),
    cache_control=_names("type", "ttl"),
)
_RESPONSES = _names(
    input=_names(
        *("type", "role", "id", "status", "call_id", "name", "arguments", "output", "summary"),
        "encrypted_content",
        content=_PART,
    ),
    tools=_TOOL,
    tool_choice=_CHOICE,
    text=_names("verbosity", format=_FORMAT),
    stream_options=_names("include_usage", "include_obfuscation"),
)
_FORMS: dict[type[msgspec.Struct], Known] = {CountRequest: _MESSAGES, ResponsesRequest: _RESPONSES}
