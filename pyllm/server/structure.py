"""What a request says its answer must be: response_format and its like, and tools that must be called."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyllm.constraint import Constraint
from pyllm.errors import PyllmError
from pyllm.grammar import with_options
from pyllm.parsers import FORMATS, THINKING, Dialect, harmony
from pyllm.parsers.forced import GENERIC, literals, opening_rules
from pyllm.server.errors import ApiError, bad_request

if TYPE_CHECKING:
    from pyllm.llm import LLM
    from pyllm.server.protocol import ChatRequest, Sampling

_NAME = re.compile(r"[\w.\-]{1,128}")
_KINDS = "text, json_object, json_schema, regex or grammar"


# -- the text of the answer ------------------------------------------------------------------------------------


def asked_constraint(body: Sampling) -> Constraint | None:
    """What the answer's text must be. ApiError names the field that is wrong."""
    found: tuple[str, Constraint] | None = None
    for name, read in _FIELDS.items():
        value = getattr(body, name)
        constraint = None if value is None else _read(name, read, value)
        if constraint is None:
            continue
        if found is not None:
            raise bad_request(f"{name}: {found[0]} already says what the answer must be", name)
        found = name, constraint
    return found[1] if found else None


def _read(name: str, read: Callable[[Any, str], Constraint | None], value: Any) -> Constraint | None:
    try:
        return read(value, name)
    except PyllmError as error:
        raise refused(error, name) from None


def refused(error: PyllmError, name: str) -> ApiError:
    """A constraint's error under the name of its field."""
    return bad_request(f"{name}: {str(error).removeprefix('constraint: ')}", name, "invalid_constraint")


def field_of(body: Sampling) -> str:
    """The field that constrains the answer."""
    return next((name for name in _FIELDS if getattr(body, name) is not None), "tools")


def _response_format(value: Any, name: str) -> Constraint | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint.json(value.get("schema"), strict=False)
    if kind == "json_schema":
        inner = value.get("json_schema", value)  # the Responses API has no level between
        if not isinstance(inner, dict):
            raise bad_request(f"{name}.json_schema: expected an object with schema", name)
        schema = inner.get("schema")
        if not isinstance(schema, dict | bool):
            raise bad_request(f"{name}.json_schema.schema: expected a JSON Schema", name)
        return Constraint.json(schema, strict=inner.get("strict") is True)
    if kind == "regex":
        return Constraint.regex(_text(value.get("pattern", value.get("regex")), f"{name}.pattern"))
    if kind == "grammar":
        return Constraint.grammar(_text(value.get("grammar"), f"{name}.grammar"))
    raise bad_request(f"{name}.type: expected {_KINDS}, got {kind!r:.60}", name)


def _grammar(value: Any, name: str) -> Constraint | None:
    if isinstance(value, str):
        return Constraint.grammar(value)
    kind = value.get("type") if isinstance(value, dict) else None
    inner = value.get("value", value.get(str(kind))) if isinstance(value, dict) else None
    if kind == "regex":
        return Constraint.regex(_text(inner, f"{name}.value"))
    if kind in ("gbnf", "lark", "grammar"):
        return Constraint.grammar(_text(inner, f"{name}.value"))
    if kind == "json":
        return Constraint.json(inner)
    raise bad_request(
        f"{name}: expected GBNF, or an object with type regex, gbnf, lark or json, and value", name
    )


def _choice(value: Any, name: str) -> Constraint | None:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise bad_request(f"{name}: expected a list of texts", name)
    return Constraint("lark", f"start: {' | '.join(json.dumps(item, ensure_ascii=False) for item in value)}\n")


def _structured_outputs(value: Any, name: str) -> Constraint | None:
    readers: dict[str, Callable[[Any, str], Constraint | None]] = {
        "json": lambda inner, _: Constraint.json(inner),
        "regex": lambda inner, place: Constraint.regex(_text(inner, place)),
        "choice": _choice,
        "grammar": lambda inner, place: Constraint.grammar(_text(inner, place)),
        "json_object": lambda inner, _: Constraint.json() if inner else None,
    }
    given = [key for key in readers if value.get(key) is not None] if isinstance(value, dict) else []
    if len(given) != 1:
        raise bad_request(f"{name}: expected one of {', '.join(readers)}", name)
    return readers[given[0]](value[given[0]], f"{name}.{given[0]}")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise bad_request(f"{place}: expected text, got {type(value).__name__}", place.split(".")[0])
    return value


_FIELDS: dict[str, Callable[[Any, str], Constraint | None]] = {
    "response_format": _response_format,
    "grammar": _grammar,
    "guided_json": lambda value, name: Constraint.json(value),
    "guided_regex": lambda value, name: Constraint.regex(_text(value, name)),
    "guided_choice": _choice,
    "guided_grammar": lambda value, name: Constraint.grammar(_text(value, name)),
    "structured_outputs": _structured_outputs,
}


# -- tools -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolChoice:
    """forced: a call must come. names: of the tools that may be called then."""

    tools: list[dict[str, Any]] | None  # for the prompt and the parser; none: calls are text
    forced: bool = False
    names: tuple[str, ...] = ()
    many: bool = True  # calls in one answer


def tool_choice(body: ChatRequest) -> ToolChoice:
    """tools, tool_choice and parallel_tool_calls together. ApiError names what is wrong with them."""
    choice, tools = body.tool_choice, body.tools or None
    many = body.parallel_tool_calls is not False
    if choice in (None, "auto"):
        return ToolChoice(tools, many=many)
    if choice == "none":
        return ToolChoice(None)
    functions = {f["name"]: f for f in map(_function, tools or []) if isinstance(f.get("name"), str)}
    if choice == "required":
        names = tuple(functions)
    elif isinstance(choice, dict) and choice.get("type") == "function":
        name = choice.get("function", choice)
        name = name.get("name") if isinstance(name, dict) else None
        if name not in functions:
            known = ", ".join(functions) or "none"
            raise bad_request(
                f"tool_choice: {name!r:.80} is no function of tools, which has {known:.300}", "tool_choice"
            )
        names, many = (name,), False
    else:
        raise bad_request(
            f"tool_choice: expected auto, none, required or a function, got {choice!r:.80}", "tool_choice"
        )
    if not names:
        raise bad_request(f"tool_choice: {choice} needs tools with functions", "tool_choice")
    for name in names:
        if not _NAME.fullmatch(name):
            raise bad_request(
                f"tools: names of forced functions have letters, digits, _, - and . only, not {name!r:.80}",
                "tools",
            )
    return ToolChoice(tools, True, names, many)


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, dict) else {}


# -- both ------------------------------------------------------------------------------------------------------


def answer_constraint(
    llm: LLM, dialect: Dialect, choice: ToolChoice, text: Constraint | None, prompt: str
) -> tuple[Constraint | None, Dialect]:
    """What the whole answer must be: reasoning first where the model reasons, then calls or `text`; and the
    dialect in which it will come. prompt: its end, which may have begun the reasoning."""
    if not choice.forced and text is None:
        return None, dialect
    literal = literals(llm.tokenizer, llm.template.source)
    rules, parts = "", []
    channels = dialect.format == "gpt-oss"
    thinking = harmony.ANALYSIS if channels else THINKING[dialect.thinking] if dialect.thinking else None
    if thinking:
        rules += opening_rules(thinking, thinking.opened_by(prompt), literal)
    if choice.tools and (choice.forced or text) and (functions := _forced(choice)):
        written = FORMATS[dialect.format].written if dialect.format else None
        called = written.rules(functions, choice.many, literal) if written else None
        if called is None:
            called, dialect = GENERIC.rules(functions, choice.many, literal), replace(dialect, format="json")
        rules += called
        parts.append("calls")
    body = text if not choice.forced else None
    if body is not None:
        parts.append(f"{literal(harmony.FINAL)} @body" if channels else "@body")
    if parts == ["@body"] and not rules:
        return text, dialect
    start = f"start: {'opening ' if thinking else ''}({' | '.join(parts)})\n"
    return replace(body, around=start + rules) if body else Constraint("lark", start + rules), dialect


def _forced(choice: ToolChoice) -> Sequence[Mapping[str, Any]]:
    """The functions that may be called, with schemas of their arguments for llguidance."""
    found = []
    for function in map(_function, choice.tools or []):
        name = function.get("name")
        if (
            not isinstance(name, str)
            or not _NAME.fullmatch(name)
            or (choice.forced and name not in choice.names)
        ):
            continue
        schema = function.get("parameters") or {}
        if not isinstance(schema, dict):
            raise bad_request(f"tools: the parameters of {name} are no JSON Schema", "tools")
        strict = function.get("strict") is True
        try:
            Constraint.json(schema, strict=strict)
        except PyllmError as error:
            raise refused(error, "tools") from None
        found.append({"name": name, "parameters": with_options({"type": "object", **schema}, strict)})
    return found
