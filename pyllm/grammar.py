"""Constraints for llguidance: its form of a grammar, its limits, and its words about what is wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.constraint import Constraint

# Between JSON's tokens. Without a bound, small models write white space until their context is full.
_SPACE = r"( |\n{1,2}[ \t]{0,20})?"
_MAX_LEXER_STATES = 50_000  # of 1 to 2 kB


def compiled(constraint: Constraint, tokenizer: Any) -> Any:
    """An LLMatcher at the beginning of an answer. PyllmError says what is wrong with the constraint."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
    matcher = LLMatcher(tokenizer, _source(constraint), log_level=0, limits=limits)
    if not (wrong := trouble(matcher)):
        matcher.compute_bitmask()  # some grammars only fail now
        wrong = trouble(matcher)
    if wrong:
        raise PyllmError(f"constraint: {_explained(constraint, wrong)}")
    return matcher


def trouble(matcher: Any) -> str:
    """Why no text can follow, nor end here; "" when all is well."""
    error = str(matcher.get_error()).removesuffix("\n<non-verbose/>")
    if error in ("NoExtension", "NoExtensionBias") or (not error and _stuck(matcher)):
        return "no text can be completed by it"
    return error


def _stuck(matcher: Any) -> bool:
    return bool(matcher.is_stopped() and not matcher.is_accepting())


def _source(constraint: Constraint) -> str:
    from llguidance import LLMatcher, grammar_from

    if constraint.kind == "json":
        loose = not constraint.strict
        options: Any = {"whitespace_pattern": _SPACE, "lenient": loose, "coerce_one_of": loose}
        return LLMatcher.grammar_from_json_schema(constraint.text, overrides=options)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.text)
    try:
        return grammar_from("grammar", constraint.text)
    except ValueError as error:
        reason = str(error).removeprefix("Failed to convert the grammar from GBNF to Lark: ")
        raise PyllmError(f"constraint: the grammar is wrong: {reason}") from None


def _explained(constraint: Constraint, wrong: str) -> str:
    """Its message in one line, with the place where it tells one."""
    if constraint.kind == "regex":
        reason = re.search(r"^error: (.*)$", wrong, re.M)
        if not reason:
            reason = re.search(r"\(in regex\): (.*?)(?: in regex /|\n|$)", wrong)
        mark = re.search(r"^    ( *)\^+$", wrong, re.M)
        place = f" at character {len(mark[1]) + 1}" if mark else ""
        return f"the regular expression is wrong{place}: {reason[1] if reason else wrong.splitlines()[0]}"
    what = "schema" if constraint.kind == "json" else "grammar"
    line = re.match(r"(?:at )?(\d+)\((\d+)\): ", wrong)
    if line and constraint.kind == "grammar":
        return (
            f"the grammar is wrong at line {line[1]}, column {line[2]}: {wrong[line.end() :].splitlines()[0]}"
        )
    return f"the {what} cannot be followed: {' '.join(wrong.split())[:500]}"
