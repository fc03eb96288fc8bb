"""The way back: a grammar for an answer that calls tools, or reasons first, in the model's own format.

Written in llguidance's Lark, for `pyllm.constraint.Constraint`. What it lets through, the parsers read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyllm.parsers.reasoning import Thinking
    from pyllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Written:
    """Calls as a format writes them: begin, then call + arguments + close for each, with `between`; then end.
    In `call`, NAME is the function's name."""

    call: str
    close: str = "}"
    begin: str = ""
    between: str = ", "
    end: str = ""


GENERIC = Written('{"name": "NAME", "arguments": ')
Literal = Callable[[str], str]


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
            f"<[{part}]>" if isinstance(part, int) else _quoted(part) for part in parts if part != ""
        )

    return literal


def calls_rules(written: Written, functions: Sequence[Mapping[str, Any]], many: bool, literal: Literal) -> str:
    """Rules of `calls`: one of `functions`, or with `many` one or more. A function has "name", "parameters"
    (a schema, with llguidance's options in it)."""
    more = f"({literal(written.between)} call)*" if many else ""
    names = [f"call_{i}" for i in range(len(functions))]
    rules = [
        f"calls: {literal(written.begin)} call {more} {literal(written.end)}",
        f"call: {' | '.join(names)}",
    ]
    before, _, behind = written.call.partition("NAME")
    for name, function in zip(names, functions, strict=True):
        schema = json.dumps(function["parameters"], ensure_ascii=False)
        called = _quoted(function["name"])
        rules.append(
            f"{name}: {literal(before)} {called} {literal(behind)} {name}_arguments {literal(written.close)}"
        )
        rules.append(f"{name}_arguments: %json {schema}")
    return "\n".join(rules) + "\n"


def opening_rules(thinking: Thinking, inside: bool, literal: Literal) -> str:
    """Rules of `opening`: the reasoning before an answer. inside: the prompt has begun it; otherwise it may be
    left out."""
    start = "" if inside else literal(thinking.start)
    end = literal(thinking.end)
    space = r"/[ \n]{0,4}/"
    if end.startswith("<["):  # no text holds a control token
        thought = f"{start} /(?s:.*)/ {end} {space}"
        return f"opening: {f'{thought}' if inside else f'({thought})?'}\n"
    pattern = "".join(f"\\x{{{ord(c):x}}}" for c in thinking.end)
    thought = f"{start} thought {space}"
    return f"opening: {thought if inside else f'({thought})?'}\nthought[lazy]: /(?s:.*){pattern}/\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
