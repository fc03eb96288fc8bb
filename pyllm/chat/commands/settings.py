"""What the next answers are made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm.chat.commands.registry import command
from pyllm.chat.interrupts import keys
from pyllm.chat.loading import Loading
from pyllm.chat.sampling_options import OPTIONS, option, parse
from pyllm.chat.state import THINK
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat


@command("/system [TEXT|-]", "show, change or (-) remove the system message")
def system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.show(
            chat.conversation.system if chat.conversation.system is not None else "there is no system message"
        )
        return
    text = None if argument == "-" else argument
    chat.record({"system": text}, sync=True)
    chat.show("the system message was removed" if text is None else "the system message was changed")


@command("/set [OPTION VALUE]", "show the sampling options with their ranges, or change one", "option")
def set(chat: Chat, argument: str) -> None:
    name, _, value = argument.partition(" ")
    if "=" in name:
        name, _, value = argument.partition("=")
    if not name:
        _show(chat, [one.name for one in OPTIONS.values()])
    elif not value.strip():
        _show(chat, [option(name).name])
    else:
        one = option(name)
        parsed = parse(one, value.strip())
        chat.params(chat.model, {**chat.chosen, one.name: parsed})  # refuses what is out of its range
        chat.chosen[one.name] = parsed
        chat.show(f"{one.name} = {_value(parsed)}")


@command("/unset OPTION|all", "a sampling option's own value again", "option")
def unset(chat: Chat, argument: str) -> None:
    if argument == "all":
        chat.chosen.clear()
        chat.show("all sampling options have their own values")
        return
    if not argument:
        raise PyllmError("expected an option; /set lists them")
    one = option(argument)
    chat.chosen.pop(one.name, None)
    _show(chat, [one.name])


@command(
    "/think [show|hide|off]",
    "reasoning before an answer: shown, hidden, or (where the model can) not made",
    THINK,
)
def think(chat: Chat, argument: str) -> None:
    if argument and argument not in THINK:
        raise PyllmError(f"expected {', '.join(THINK)}, got {argument[:40]!r}")
    chat.think = argument or chat.think
    words = {"show": "shown", "hide": "hidden", "off": "asked not to be made"}
    known = chat.loading.done and not chat.loading.error
    none = "; this model makes none" if known and not chat.engine.thinks else ""
    chat.show(f"reasoning is {words[chat.think]}{none}")


@command(
    "/json [SCHEMA|FILE|any|off]",
    "answers in JSON of a schema, of a file that holds one, any JSON; or off",
    "path",
)
def json_schema(chat: Chat, argument: str) -> None:
    from pyllm.constraint import Constraint

    if not argument:
        shown = chat.constraint.text if chat.constraint else "answers are free text"
        chat.show(shown)
    elif argument == "off":
        chat.constraint = None
        chat.show("answers are free text")
    else:
        text = argument
        if argument == "any":
            text = '{"type": "object"}'
        elif not argument.startswith("{"):
            text = read_schema(argument)
        constraint = Constraint.json(text)
        chat.engine.check(constraint)
        chat.constraint = constraint
        keys = list(json.loads(constraint.text).get("properties", {}))
        chat.show("answers are JSON" + (f" with {', '.join(map(str, keys[:12]))}" if keys else ""))


def read_schema(name: str) -> str:
    """A file's text. PyllmError says what is wrong with it."""
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}; a schema itself begins with {{") from None
    except UnicodeDecodeError:
        raise PyllmError(f"{path}: expected a JSON Schema, found no UTF-8 text") from None


@command("/model [NAME]", "the models, or go on with another one", "model")
def model(chat: Chat, argument: str) -> None:
    if not argument:
        for name in chat.models(chat):
            chat.show(f"{'*' if name == chat.model else ' '} {name}")
        return
    name, before = argument.strip(), chat.model
    old = chat.engine
    with keys(shown=True):  # terms of a model may be asked for
        new = chat.prepare(name)  # whatever can be seen before the old one must go
    chat.warm.forget()
    old.close()  # two models may not fit into memory
    try:
        loading = Loading(new)
        engine = loading.wait()
    except BaseException:
        chat.loading = Loading(chat.prepare(before))
        chat.loading.begin()
        raise
    chat.loading = loading
    chat.model = name
    chat.computed.clear()
    chat.used = 0
    chat.record({"model": chat.model}, sync=True)
    context = f", a context of {engine.context} tokens" if engine and engine.context else ""
    chat.show(f"now {chat.shown}{context}; it reads the conversation meanwhile")
    if chat.conversation.head:
        chat.read_ahead()
    if engine and engine.note:
        chat.tell(engine.note)


def _show(chat: Chat, names: list[str]) -> None:
    params = chat.sampling()
    width = max(map(len, names))
    for name in names:
        one = OPTIONS[name]
        mark = "*" if name in chat.chosen else " "
        chat.show(f"{mark} {name:<{width}}  {_value(getattr(params, name)):<8}  {one.range:<24}  {one.help}")


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(repr(part) for part in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
