"""What an answer's text must be: JSON of a schema, a match of a regular expression, or a text of a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyllm.errors import PyllmError

MAX_BYTES = {"json": 512 * 1024, "regex": 8 * 1024, "grammar": 64 * 1024, "lark": 1024 * 1024}
MAX_DEPTH = 64  # of a schema's JSON

Kind = Literal["json", "regex", "grammar", "lark"]


_WORDS = {"json": "schema", "regex": "regular expression", "grammar": "grammar", "lark": "grammar"}


@dataclass(frozen=True)
class Constraint:
    """Made by `json`, `regex` or `grammar`; for `SamplingParams(constraint=...)`. It holds for the whole
    answer: every token leaves a text that can be completed, and the answer ends only where it is complete,
    unless max_tokens, the context or a stop string end it before. Equal ones share their compiled form.

    PyllmError names what is wrong, and where; what only shows when a model compiles it comes with the request.
    """

    kind: Kind
    text: str  # the schema as JSON, the pattern, or the grammar
    strict: bool = True
    around: str = ""  # rules of llguidance's Lark from `start`, in which the constraint itself is @body

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PyllmError(
                f"constraint: expected the text of a {_WORDS[self.kind]}, got {type(self.text).__name__}"
            )
        if not self.text.strip() and self.kind == "grammar":
            raise PyllmError("constraint: the grammar is empty")
        if (size := len(self.text.encode("utf-8", "replace"))) > (most := MAX_BYTES[self.kind]):
            raise PyllmError(f"constraint: expected at most {most} bytes, the {_WORDS[self.kind]} has {size}")

    @classmethod
    def json(cls, schema: Mapping[str, Any] | bool | str | None = None, *, strict: bool = True) -> Constraint:
        """JSON that is valid by `schema`: JSON Schema, as a mapping or as its text; None: any JSON object.

        Strict: a keyword that cannot be enforced is an error when the model gets it. Otherwise it is ignored.
        References are followed within the schema only; nothing is ever fetched.
        """
        if schema is None:
            schema = {"type": "object"}
        if isinstance(schema, str):
            schema = _parsed(schema)
        if schema is True:
            schema = {}
        if schema is False:
            raise PyllmError("constraint: the schema is false: nothing is valid by it")
        if not isinstance(schema, Mapping):
            raise PyllmError(f"constraint: expected a JSON Schema (an object), got {type(schema).__name__}")
        if not _shallow(schema):
            raise PyllmError(f"constraint: expected a schema nested at most {MAX_DEPTH} deep")
        try:
            text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), default=_plain)
        except (TypeError, ValueError) as error:
            raise PyllmError(f"constraint: the schema is not JSON: {error}") from None
        return cls("json", text, strict)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Text that the whole of `pattern` matches, in the syntax of Rust's regex crate: no look-around, no
        word boundaries, no back references."""
        return cls("regex", pattern)

    @classmethod
    def grammar(cls, text: str) -> Constraint:
        """Text of a context-free grammar in GBNF (llama.cpp's form, from the rule `root`) or in llguidance's
        form of Lark (from the rule `start`)."""
        return cls("grammar", text)


def _parsed(text: str) -> Any:
    if len(text) > MAX_BYTES["json"]:
        raise PyllmError(f"constraint: expected at most {MAX_BYTES['json']} bytes, the schema has {len(text)}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PyllmError(
            f"constraint: the schema is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise PyllmError(f"constraint: expected a schema nested at most {MAX_DEPTH} deep") from None


def _shallow(schema: Mapping[str, Any]) -> bool:
    """Whether no value lies in more than MAX_DEPTH others. Level by level: no recursion."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        if not level:
            return True
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, Mapping) else container)
            if isinstance(item, Mapping | list | tuple)
        ]
    return not level


def _plain(value: Any) -> Any:
    """Mappings that are no dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
