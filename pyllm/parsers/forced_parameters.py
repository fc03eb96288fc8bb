"""Forced calls in formats that write each parameter on its own: tags, Python, Gemma's braces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyllm.parsers.forced import Functions, Literal, calls, named, quoted, up_to
from pyllm.parsers.tools import kinds_of

_ABOUT = {"title", "description", "default", "examples", "deprecated", "$comment"}
_DEFINITIONS = ("$defs", "definitions")
_OBJECT = {*_ABOUT, *_DEFINITIONS, "$schema", "type", "properties", "required", "additionalProperties"}
_SIMPLE = {"number", "boolean", "null"}


@dataclass(frozen=True)
class Parameters:
    """begin, then call + parameters, `separator` between them, + close for each call, with `between`; then end.
    In `call` and `parameter`, NAME is a name.

    A parameter is `parameter`, JSON, value_end. One that can only be a string is `text_parameter` (where that
    differs), the text as it is up to the marker text_end, text_after; without text_end it is JSON too.
    names: those that the format's parser reads. simple: other values than strings are numbers and words only.
    """

    call: str
    close: str
    parameter: str
    value_end: str = ""
    text_end: str = ""
    text_after: str = ""
    text_parameter: str = ""
    separator: str = ""
    begin: str = ""
    between: str = ""
    end: str = ""
    names: re.Pattern[str] = field(default=re.compile(r'[^\s<>"=]{1,200}'))
    simple: bool = False

    def rules(self, functions: Functions, many: bool, literal: Literal) -> str | None:
        names = [f"call_{i}" for i in range(len(functions))]
        rules = calls(names, self.begin, self.between, self.end, many, literal)
        for name, function in zip(names, functions, strict=True):
            parameters = self._parameters(name, function["parameters"], literal)
            if parameters is None:
                return None
            call = named(self.call, function["name"], literal)
            rules += f"{name}: {call} {name}_from_0 {literal(self.close)}\n{parameters}"
        return rules + (up_to("text", self.text_end, literal)[1] if self.text_end else "")

    def _parameters(self, call: str, schema: Mapping[str, Any], literal: Literal) -> str | None:
        """Rules of CALL_from_0: the parameters in the schema's order, those not required present or not."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        options = {"x-guidance": schema["x-guidance"]}
        simple = set(schema) <= _OBJECT | set(options) and schema.get("type") == "object"
        if not simple or not isinstance(properties, dict) or not isinstance(required, list):
            return None
        if not set(required) <= set(properties) or (not properties and schema.get("additionalProperties")):
            return None
        options |= {key: schema[key] for key in _DEFINITIONS if key in schema}
        count, rules, separator = len(properties), "", literal(self.separator)
        # CALL_from_i: where no parameter has come yet; CALL_after_i: where one has. Both for those from i on.
        for i, (name, value) in enumerate(properties.items()):
            written = self._value(f"{call}_value_{i}", name, value, options, literal)
            if written is None:
                return None
            rule, more, needed = f"{call}_{i}", f"{call}_after_{i + 1}", name in required
            later = "" if needed else f" | {call}_from_{i + 1}"
            once = f"{separator} {rule}" if needed else f"({separator} {rule})?"
            rules += f"{call}_from_{i}: {rule} {more}{later}\n{call}_after_{i}: {once} {more}\n"
            rules += f"{rule}: {written}"
        return rules + f'{call}_from_{count}: ""\n{call}_after_{count}: ""\n'

    def _value(
        self, rule: str, name: str, schema: Any, options: Mapping[str, Any], literal: Literal
    ) -> str | None:
        """What a parameter is, with the rules that this needs."""
        schema = {} if schema is True else schema
        if not isinstance(schema, dict) or not self.names.fullmatch(name) or _refers_elsewhere(schema):
            return None
        kinds = kinds_of(schema)
        if self.text_end and kinds == {"string"}:
            text = self._text(schema, literal)
            return text and f"{named(self.text_parameter or self.parameter, name, literal)} {text}\n"
        if self.simple and not (kinds and kinds <= _SIMPLE):
            return None
        value = json.dumps({**schema, **options}, ensure_ascii=False)
        parameter = named(self.parameter, name, literal)
        return f"{parameter} {rule} {literal(self.value_end)}\n{rule}: %json {value}\n"

    def _text(self, schema: Mapping[str, Any], literal: Literal) -> str | None:
        """A string without quotes. None where the schema says more of it than what it may be one of."""
        if not set(schema) <= _ABOUT | {"type", "enum", "const"}:
            return None
        if "enum" not in schema and "const" not in schema:
            return f"{up_to('text', self.text_end, literal)[0]} {literal(self.text_after)}"
        texts = schema["enum"] if "enum" in schema else [schema["const"]]
        if "const" in schema and schema["const"] not in texts:
            return None
        if not all(
            isinstance(text, str) and text.strip() == text and self.text_end not in text for text in texts
        ):
            return None
        end = literal(self.value_end or self.text_end + self.text_after)
        return f"({' | '.join(map(quoted, texts))}) {end}" if texts else None


def _refers_elsewhere(schema: Any) -> bool:
    """Whether it refers to what is not among the definitions, which it takes along."""
    if isinstance(schema, dict):
        to = schema.get("$ref", "#/$defs/")
        inside = isinstance(to, str) and to.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS))
        return not inside or any(map(_refers_elsewhere, schema.values()))
    return isinstance(schema, list) and any(map(_refers_elsewhere, schema))
