"""Constraints for llguidance: its form of a grammar, its limits, and its words about what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pyllm.constraint import Constraint
from pyllm.errors import PyllmError

MAX_SECONDS = 0.4  # of processor time that compiling an untrusted constraint may take
_MAX_MEMORY = 2 << 30  # bytes of address space
_MAX_LEXER_STATES = 50_000  # of 1 to 2 kB
# Between JSON's tokens. Without a bound, small models write white space until their context is full.
_SPACE = r"( |\n{1,2}[ \t]{0,20})?"


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


def check(constraint: Constraint) -> None:
    """PyllmError for what is wrong with it whatever the model."""
    from llguidance import LLTokenizer

    names_tokens = constraint.kind not in ("json", "regex") and "<" in constraint.text
    if not names_tokens:  # they are of a vocabulary that is not here
        compiled(constraint, LLTokenizer("byte"))


def trouble(matcher: Any) -> str:
    """Why no text can follow, nor end here; "" when all is well."""
    error = str(matcher.get_error()).removesuffix("\n<non-verbose/>")
    stuck = not error and matcher.is_stopped() and not matcher.is_accepting()
    if stuck or error in ("NoExtension", "NoExtensionBias"):
        return "no text can be completed by it"
    return error


def with_options(schema: Mapping[str, Any], strict: bool) -> dict[str, Any]:
    """The schema with llguidance's options."""
    options = {"whitespace_pattern": _SPACE, "lenient": not strict, "coerce_one_of": not strict}
    return {**schema, "x-guidance": options}


def _source(constraint: Constraint) -> str:
    text = constraint.text
    body: dict[str, Any]
    if constraint.kind == "json":
        body = {"json_schema": with_options(json.loads(text), constraint.strict)}
    elif constraint.kind == "regex":
        from llguidance import LLMatcher

        body = json.loads(LLMatcher.grammar_from_regex(text))["grammars"][0]
    else:
        body = {"lark_grammar": _lark(text) if constraint.kind == "grammar" else text}
    around = [{"lark_grammar": constraint.around}] if constraint.around else []
    return json.dumps({"grammars": [*around, {**body, "name": "body"}]})


def _lark(text: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(text))
    except Exception as error:  # its own errors, and what its recursion runs into
        raise PyllmError(f"constraint: the grammar is wrong: {str(error)[:300]}") from None


def _explained(constraint: Constraint, wrong: str) -> str:
    """Its message in one line, with the place where it tells one."""
    if constraint.kind == "regex":
        reason = re.search(r"^error: (.*)$", wrong, re.M)
        reason = reason or re.search(r"\(in regex\): (.*?)(?: in regex /|\n|$)", wrong)
        mark = re.search(r"^    ( *)\^+$", wrong, re.M)
        place = f" at character {len(mark[1]) + 1}" if mark else ""
        return f"the regular expression is wrong{place}: {reason[1] if reason else wrong.splitlines()[0]}"
    line = re.match(r"(?:at )?(\d+)\((\d+)\): ", wrong)
    if line and constraint.kind == "grammar":
        reason_line = wrong[line.end() :].splitlines()[0]
        return f"the grammar is wrong at line {line[1]}, column {line[2]}: {reason_line[:300]}"
    if schema := re.search(r"failed to compile JSON schema: (.*)", wrong):
        return f"a schema cannot be followed: {schema[1][:300]}"
    what = "schema" if constraint.kind == "json" else "grammar"
    return f"the {what} cannot be followed: {' '.join(wrong.split())[:500]}"


# -- untrusted constraints -------------------------------------------------------------------------------------

_MULTIPLIES = re.compile(r'"(multipleOf|pattern|patternProperties|allOf|oneOf|not|if|dependent\w+)"')
_REPEATS = re.compile(r"[{%]")
_PATIENCE = 5.0  # seconds for all of it, where the machine has other things to do
_ready: list[subprocess.Popen[bytes]] = []  # at most one or two, that wait for something to try
_CHILD = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from pyllm.grammar import child; child()"


def surely_cheap(constraint: Constraint) -> bool:
    """Whether compiling it takes milliseconds: small, and without what multiplies."""
    schemas = constraint.kind in ("json", "lark")
    text = constraint.text
    return len(text) <= (8192 if schemas else 200) and not (_MULTIPLIES if schemas else _REPEATS).search(text)


def prepare_trial() -> None:
    """Starts the next check_cost()'s process ahead: it takes a third of a second to get ready."""
    with suppress(OSError):
        _ready.append(_start())


def check_cost(constraint: Constraint) -> None:
    """PyllmError when the constraint takes too much time or memory to compile. A process of its own tries,
    because nothing else can be stopped half-way; what else is wrong with it, compiled() says."""
    try:
        process = _ready.pop()
        if process.poll() is not None:
            raise IndexError
    except IndexError:
        try:
            process = _start()
        except OSError as error:
            raise PyllmError(f"constraint: no process can be started to try it: {error}") from error
    with process:
        try:
            stderr = process.communicate(json.dumps(asdict(constraint)).encode(), timeout=_PATIENCE)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            stderr = b""
    if process.returncode > 0:
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise PyllmError(f"constraint: trying it failed: {''.join(last)[:300]}")
    if process.returncode != 0:  # ended by the system, or here
        raise PyllmError(
            f"constraint: expected one that is compiled in {MAX_SECONDS:g} s; make it smaller: fewer "
            "properties and alternatives, shorter patterns, smaller bounds"
        )


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)


def child() -> None:
    """The process of check_cost: ends with 0 in time, or by the system's hand."""
    from llguidance import LLTokenizer

    tokenizer = LLTokenizer("byte")
    if not (given := sys.stdin.buffer.read()):
        return  # the parent has ended without a need for it
    try:
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    except (ImportError, OSError, ValueError):
        pass  # the parent's patience has to do
    values = json.loads(given)
    for name in ("text", "around"):
        if values["kind"] == "lark" or name == "around":
            values[name] = re.sub(r"<\[\d+\]>", "/x/", values[name])  # of a vocabulary that is not here
    with suppress(PyllmError):  # said again where the whole vocabulary is
        compiled(Constraint(**values), tokenizer)
