"""The way back: a grammar for an answer that calls tools, or reasons first, in the model's own format.

Written in llguidance's Lark, for `pyllm.constraint.Constraint`. What it lets through, the parsers read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pyllm.parsers.reasoning import Thinking
    from pyllm.tokenizer import Tokenizer


Literal = Callable[[str], str]
Functions = Sequence[Mapping[str, Any]]  # "name", "parameters": a schema with llguidance's options in it


class Written(Protocol):
    """How a format writes calls."""

    def rules(self, functions: Functions, many: bool, literal: Literal) -> str | None:
        """Rules of `calls`: one of `functions`, or with `many` one or more. None where a function's parameters
        cannot be written so that they read back as what the schema allows."""
        ...


@dataclass(frozen=True)
class Json:
    """begin, then call + arguments as JSON + close for each, with `between`; then end. In `call`, NAME is the
    function's name. single: another call cannot follow."""

    call: str
    close: str = "}"
    begin: str = ""
    between: str = ", "
    end: str = ""
    single: bool = False

    def rules(self, functions: Functions, many: bool, literal: Literal) -> str:
        names = [f"call_{i}" for i in range(len(functions))]
        rules = calls(names, self.begin, self.between, self.end, many and not self.single, literal)
        for name, function in zip(names, functions, strict=True):
            schema = json.dumps(function["parameters"], ensure_ascii=False)
            call = named(self.call, function["name"], literal)
            rules += (
                f"{name}: {call} {name}_arguments {literal(self.close)}\n{name}_arguments: %json {schema}\n"
            )
        return rules


GENERIC = Json('{"name": "NAME", "arguments": ')


def calls(names: Sequence[str], begin: str, between: str, end: str, many: bool, literal: Literal) -> str:
    """The rules above those of each function's call."""
    more = f"({literal(between)} call)*" if many else ""
    return f"calls: {literal(begin)} call {more} {literal(end)}\ncall: {' | '.join(names)}\n"


def named(text: str, name: str, literal: Literal) -> str:
    """A format's text with a name in the place of NAME; the name is no control token."""
    before, _, behind = text.partition("NAME")
    return f"{literal(before)} {quoted(name)} {literal(behind)}"


def up_to(rule: str, end: str, literal: Literal) -> tuple[str, str]:
    """Any text with the marker that ends it: (what stands for it, the `rule` that this needs)."""
    marker = literal(end)
    if marker.startswith("<["):  # no text holds a control token
        return f"/(?s:.*)/ {marker}", ""
    pattern = "".join(f"\\x{{{ord(c):x}}}" for c in end)
    return rule, f"{rule}[lazy]: /(?s:.*){pattern}/\n"


def literals(tokenizer: Tokenizer, reserved: str) -> Literal:
    """Makes Lark of a template's own text: control tokens by their ids, the rest in quotes. reserved: the
    template's source, see Tokenizer.control_tokens."""
    special = tokenizer.special_tokens(reserved)
    controls = tokenizer.control_tokens(reserved)

    def literal(text: str) -> str:
        found = special.split([(text, True)])
        names_control = any(isinstance(part, int) and part in controls for part in found)
        parts = found if names_control else [text]
        return " ".join(
            f"<[{part}]>" if isinstance(part, int) else quoted(part) for part in parts if part != ""
        )

    return literal


def opening_rules(thinking: Thinking, inside: bool, literal: Literal) -> str:
    """Rules of `opening`: the reasoning before an answer. inside: the prompt has begun it; otherwise it may be
    left out."""
    start = "" if inside else literal(thinking.start)
    thought, rule = up_to("thought", thinking.end, literal)
    opening = rf"{start} {thought} /[ \n]{{0,4}}/"
    return f"opening: {opening if inside else f'({opening})?'}\n{rule}"


def quoted(text: str) -> str:
    """Text in Lark."""
    return json.dumps(text, ensure_ascii=False)
