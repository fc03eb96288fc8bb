"""What a request's tools say: their names, and what their parameters may be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyllm.parsers.values import JSON, PYTHON, converted, escaped

_KINDS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "object",
    "array": "array",
}


class Tools:
    """Tools in OpenAI's form ({"type": "function", "function": {...}}), Anthropic's, or the bare function.
    What has another form has no name and is not looked at."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        self._parameters: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
                schema = function.get("parameters", function.get("input_schema"))
                properties = schema.get("properties") if isinstance(schema, Mapping) else None
                self._parameters[name] = properties if isinstance(properties, Mapping) else {}

    def __contains__(self, name: str) -> bool:
        return name in self._parameters

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._parameters)

    def parameters(self, name: str) -> tuple[str, ...]:
        """Names of a tool's parameters in their order."""
        return tuple(self._parameters.get(name, ()))

    def is_text(self, name: str, parameter: str) -> bool:
        """Whether the parameter can only be a string."""
        return self._kinds(name, parameter) == {"string"}

    def as_json(self, name: str, parameter: str, text: str) -> str:
        """A value that a model wrote without quotes, as JSON: what its schema allows, else a string."""
        kinds = self._kinds(name, parameter)
        if kinds != {"string"}:
            for notation in (JSON, PYTHON):
                found = converted(text.strip(), notation)
                if found is not None and (not kinds or _kind(found) in kinds):
                    return found
        return f'"{escaped(text)}"'

    def _kinds(self, name: str, parameter: str) -> set[str]:
        """Kinds of JSON value that the schema allows; none where it does not say."""
        schema = self._parameters.get(name, {}).get(parameter)
        return kinds_of(schema) if isinstance(schema, Mapping) else set()


def kinds_of(schema: Mapping[str, Any]) -> set[str]:
    """Kinds of JSON value that a schema allows; none where it does not say."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        kinds = [kinds]
    if isinstance(kinds, list):
        return {_KINDS[kind] for kind in kinds if isinstance(kind, str) and kind in _KINDS}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {_kind(json.dumps(value, default=str)) for value in values}
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list):
            found = [
                kinds_of(o) if isinstance(o, Mapping) and not (o.keys() & {"anyOf", "oneOf"}) else set()
                for o in options
            ]
            return set().union(*found) if all(found) else set()
    return set()


def _kind(value: str) -> str:
    """Of a JSON text."""
    known = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
    return known.get(value[:1], "number")
