"""Tools for models whose chat template has no place for them: described in words, calls and results as text.

Everything here is ordinary text in the prompt: no name or description becomes a control token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyllm.marked import Marked

_DESCRIPTION = """\
You can call these functions. Each line is one of them, with its parameters as a JSON Schema:
{functions}

To call a function, answer with nothing but a JSON object on a line of its own:
{{"name": "the function's name", "arguments": {{"a parameter": "its value"}}}}
Write one such line for each call; the results come in the next message. If none helps, answer as usual."""

EXAMPLE = {
    "type": "function",
    "function": {
        "name": "example",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


def described(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], has_system: bool
) -> list[dict[str, Any]]:
    """`messages` with a description of `tools` in the system message, which is added where there is none.
    has_system: whether the template has one; otherwise the first message begins with the description."""
    functions = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _DESCRIPTION.format(functions=functions)
    first, *rest = messages
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{text}".lstrip()}, *rest]
    if has_system:
        return [{"role": Marked("system"), "content": text}, *messages]
    return [{**first, "content": f"{text}\n\n{first['content']}"}, *rest]


def has_calls(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether there are calls or their results among `messages`."""
    return any(message["role"] in ("tool", "function") or message.get("tool_calls") for message in messages)


def as_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`messages` without calls and roles of tools: calls as the description wants them, results as the user's
    words. Results side by side, and what the user says next, become one message: some templates want turns."""
    written: list[dict[str, Any]] = []
    results = False  # whether the last message written is of results
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("tool", "function"):
            name = message.get("name")
            content = f"Result of {name}: {content}" if name else f"Result: {content}"
        elif calls := message.get("tool_calls"):
            kept = {key: value for key, value in message.items() if key != "tool_calls"}
            message = {**kept, "content": "\n".join(filter(None, (content, *map(_call, calls))))}
        if role in ("tool", "function", "user"):
            if results:
                written[-1]["content"] += f"\n{content}"
            else:
                written.append({**message, "role": Marked("user"), "content": content})
        else:
            written.append(message)
        results = role in ("tool", "function") or (results and role == "user")
    return written


def _call(call: dict[str, Any]) -> str:
    function = call.get("function", call)
    found = {"name": function.get("name"), "arguments": function.get("arguments") or {}}
    return json.dumps(found, ensure_ascii=False)
