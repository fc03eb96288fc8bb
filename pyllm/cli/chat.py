from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import (
    engine_options,
    find_model,
    json_flag,
    open_model,
    optional_model,
    sampling_options,
    sampling_params,
)
from pyllm.cli.output import UsageError, decoded, note, read_text, show_json, table
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.engine import Engine
    from pyllm.chat.state import Chat
    from pyllm.sampling import SamplingParams


@click.command()
@optional_model
@click.option("-m", "--message", help="Ask this, print the answer, leave; standard input goes with it.")
@click.option("-c", "--continue", "again", is_flag=True, help="Go on with the last conversation.")
@click.option("--resume", metavar="ID", help="Go on with this conversation; the beginning of its id will do.")
@click.option("--list", "listing", is_flag=True, help="Show the saved conversations.")
@click.option("--system", help="A system message before the first turn.")
@click.option("--server", metavar="URL", help="Talk with a server of OpenAI's form; its key: PYLLM_API_KEY.")
@click.option("--raw", is_flag=True, help="Answers as they come, no markdown.")
@click.option(
    "--think",
    type=click.Choice(("show", "hide", "off")),
    default="show",
    help="Reasoning before an answer: shown, hidden or, where the model can, not made.",
)
@click.option("--no-save", is_flag=True, help="Keep nothing of this conversation.")
@json_flag
@sampling_options
@engine_options
def chat(
    model: str | None,
    message: str | None,
    again: bool,
    resume: str | None,
    listing: bool,
    system: str | None,
    server: str | None,
    raw: bool,
    think: str,
    no_save: bool,
    as_json: bool,
    sampling: dict[str, Any],
    **engine: Any,
) -> None:
    """Talk with MODEL. Ctrl-C stops an answer (what came is kept), Ctrl-D leaves, /help lists the commands.

    Every conversation is saved as it goes. Without a terminal every line of standard input is a turn, and the
    answers go to standard output. Nothing is ever dropped from the conversation silently: when the context is
    full, you choose; without a terminal that is an error.

    \b
    Example: pyllm chat smollm2-135m --system "Answer in one sentence."
             pyllm chat -m "What does this do?" < script.py
             pyllm chat -c
    """
    if listing:
        _list(as_json)
        return
    if again and resume:
        raise UsageError("-c and --resume: expected one of them")
    terminal = sys.stdin.isatty()
    if as_json and terminal and message is None:
        raise UsageError("--json: expected -m TEXT, or turns on standard input")
    from pyllm.chat.loading import Loading
    from pyllm.chat.start import begin
    from pyllm.chat.state import Chat, shown
    from pyllm.chat.warm import Warm

    def prepare(name: str) -> Callable[[], Engine]:
        return _remote(server, name) if server else _local(name, engine)

    given = {name: value for name, value in sampling.items() if value is not None and value != ()}
    conversation, transcript, path = begin(resume, again, not no_save, note)
    name = _model(model, conversation.model, server)
    make = _prepared(prepare, name, asked=model is not None)
    session = Chat(
        conversation=conversation,
        transcript=transcript,
        loading=Loading(lambda: session.take_warm(make())),
        params=_remote_params if server else _local_params,
        prepare=prepare,
        models=_names,
        tell=note,
        warm=Warm(path),
        chosen=given,
        model=name,
        raw=raw,
        silent=as_json,
        think=think,
        terminal=terminal and message is None,
    )
    session.sampling()  # wrong values show before the model loads
    if conversation.model and name != conversation.model and name:
        note(f"this conversation was with {shown(conversation.model)}; it goes on with {shown(name)}")
    if name != conversation.model:
        session.record({"model": name})
    if system is not None:
        session.record({"system": read_text(system, "--system")})
    _run(session, message, as_json)


def _run(session: Chat, message: str | None, as_json: bool) -> None:
    try:
        if session.terminal:
            from pyllm.chat import repl

            note(f"chatting with {session.shown}; Ctrl-C stops an answer, Ctrl-D leaves, /help helps")
            repl.run(session)
        else:
            from pyllm.chat import oneshot

            if not oneshot.run(session, [_question(message)] if message is not None else _lines(), as_json):
                raise KeyboardInterrupt
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        sys.exit(129)  # the terminal has gone: there is nobody to tell
    finally:
        session.end()


def _question(message: str) -> str:
    """What -m says, with standard input after it where that is no terminal."""
    text = read_text(message, "-m")
    if message == "-" or sys.stdin.isatty():
        return text
    more = read_text("-", "-m").strip("\n")
    return f"{text}\n\n{more}" if more else text


def _lines() -> Iterator[str]:
    """Turns until the end of standard input; empty lines are none."""
    start = 0
    for line in sys.stdin.buffer:
        if text := decoded(line, "standard input", start).strip():
            yield text
        start += len(line)


def _model(asked: str | None, before: str, server: str | None) -> str:
    """What the conversation goes on with: a name or a whole path; "": the server's first."""
    from pyllm.models import DEFAULT_MODEL, is_path

    name = asked or before or ("" if server else DEFAULT_MODEL)
    if name and not server and is_path(name):
        return str(Path(name).expanduser().absolute())
    return name


def _prepared(prepare: Callable[[str], Callable[[], Engine]], name: str, asked: bool) -> Callable[[], Engine]:
    try:
        return prepare(name)
    except PyllmError as error:
        if asked:
            raise
        raise PyllmError(
            f"{error}\n(this conversation was with {name}: give MODEL to go on with another)"
        ) from error


def _local(name: str, engine: Mapping[str, Any]) -> Callable[[], Engine]:
    path = find_model(name)

    def make() -> Engine:
        llm = open_model(path, **engine)
        from pyllm.chat.local import LocalEngine

        return LocalEngine(llm, name)

    return make


def _remote(server: str, name: str) -> Callable[[], Engine]:
    def make() -> Engine:
        from pyllm.chat.remote import RemoteEngine

        return RemoteEngine(server, name or None, os.environ.get("PYLLM_API_KEY", ""))

    return make


def _local_params(name: str, chosen: Mapping[str, Any]) -> SamplingParams:
    return sampling_params(name, chosen, max_tokens=None)


def _remote_params(name: str, chosen: Mapping[str, Any]) -> SamplingParams:
    from pyllm.sampling import SamplingParams

    return SamplingParams(**{"max_tokens": None, **chosen})


def _names(session: Chat) -> list[str]:
    """Models that can be named: the server's, or those that are here."""
    from pyllm.models import known_models

    names = getattr(session.engine, "models", None) if session.loading.done else None
    return names or [name for name, manifest in known_models().items() if manifest.installed]


def _list(as_json: bool) -> None:
    from pyllm.chat import store
    from pyllm.chat.state import shown

    found = store.saved()
    if as_json:
        show_json([{**asdict(one), "changed": one.changed.isoformat(timespec="seconds")} for one in found])
        return
    rows = [
        (one.id, f"{one.changed:%Y-%m-%d %H:%M}", one.turns, shown(one.model), " ".join(one.first.split())[:60])
        for one in found
    ]
    table(("ID", "CHANGED", "QUESTIONS", "MODEL", "FIRST"), rows, right=("QUESTIONS",))
