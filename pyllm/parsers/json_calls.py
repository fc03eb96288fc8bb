"""Calls as JSON objects: {"name": "f", "arguments": {"x": 1}}, their members in any order."""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.parsers.parser import Format, Outcome
from pyllm.parsers.stream import Steps, Stream
from pyllm.parsers.values import JSON, converted, decoded, string, value

_NAME = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters")
_ID = ("id", "tool_call_id", "call_id")
_MEMBERS = (*_NAME, *_ARGUMENTS, *_ID, "type")


@dataclass
class _Call:
    """What is known of it. held: arguments that came before the name."""

    known_only: bool
    name: str = ""
    id: str = ""
    held: str | None = None
    nested: bool = False
    started: bool = False
    broken: bool = False


def json_call(f: Format, known_only: bool) -> Steps[Outcome]:
    """Reads the rest of a call whose opening brace has been taken. known_only: other objects than calls of the
    request's tools are none, and that shows as early as can be."""
    call = _Call(known_only)
    if (yield from _members(f, call)) and call.started:
        f.s.keep()  # drops what followed the arguments
    if call.name and not call.started and not call.broken and call.held is None:
        _start(f, call)
        f.w.arguments("{}")
    if not call.started:
        return Outcome.NONE
    return Outcome.BROKEN if call.broken else Outcome.WHOLE


def json_calls(f: Format, known_only: bool, *separators: str) -> Steps[Outcome]:
    """Calls side by side, after the first one's opening brace; what is between them may be a separator."""
    outcome = yield from json_call(f, known_only)
    while outcome is Outcome.WHOLE:
        f.s.keep()
        yield from f.s.space()
        if separators and (yield from f.s.match(*separators)):
            yield from f.s.space()
        if not (yield from f.s.match("{")):
            break
        following = yield from json_call(f, known_only)
        if following is not Outcome.WHOLE:
            return Outcome.WHOLE if following is Outcome.NONE else following
    return outcome


def _members(f: Format, call: _Call) -> Steps[bool]:
    """The rest of an object; True when it ends well."""
    s = f.s
    while True:
        yield from s.space()
        if (yield from s.match("}")):
            return True
        key = yield from _text(s)
        if key is None or (call.known_only and key not in _MEMBERS):
            return False
        yield from s.space()
        if not (yield from s.match(":")):
            return False
        yield from s.space()
        c = yield from s.peek()
        if key == "function" and c == "{" and not call.nested:
            s.take(1)
            call.nested = True
            good = yield from _members(f, call)
        elif key in _NAME and c == '"' and not call.name:
            good = yield from _name(f, call)
        elif key in _ARGUMENTS and not call.started and call.held is None:
            good = yield from _arguments(f, call)
        elif key in _ID and c == '"':
            call.id = (yield from _text(s)) or ""
            good = bool(call.id)
        else:
            good = yield from value(s, JSON, lambda text: None)
        if not good:
            return False
        yield from s.space()
        if not (yield from s.match(",")):
            return bool((yield from s.match("}")))


def _name(f: Format, call: _Call) -> Steps[bool]:
    call.name = (yield from _text(f.s)) or ""
    if not call.name or (call.known_only and call.name not in f.tools):
        call.name = ""
        return False
    if call.held is not None:
        _start(f, call)
        f.w.arguments(call.held)
    return True


def _arguments(f: Format, call: _Call) -> Steps[bool]:
    s, parts = f.s, list[str]()
    opened = (yield from s.peek()) in ("{", "[")
    if call.name:
        _start(f, call)
    streamed = call.started and opened
    good = yield from value(s, JSON, f.w.arguments if streamed else parts.append)
    text = "".join(parts)
    if good and not opened:
        text = _object(text)
    if not call.started:
        call.held = text if good else None
    elif not streamed:
        f.w.arguments(text)
    call.broken = not good
    if call.started and good:
        f.s.keep()
    return good


def _object(text: str) -> str:
    """Arguments that are no object: models also write JSON within a string, or null."""
    if text == "null":
        return "{}"
    inner = decoded(text)
    return (converted(inner, JSON) or text) if isinstance(inner, str) else text


def _start(f: Format, call: _Call) -> None:
    call.started = True
    f.start(call.name, call.id)


def _text(s: Stream) -> Steps[str | None]:
    """A string, decoded; None where there is none."""
    parts: list[str] = []
    if not (yield from s.match('"')) or not (yield from string(s, JSON, '"', parts.append)):
        return None
    return str(decoded("".join(parts)))
