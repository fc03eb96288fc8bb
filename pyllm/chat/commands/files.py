"""Files in, conversations out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm.chat.clipboard import copy_text
from pyllm.chat.commands.branches import show_path
from pyllm.chat.commands.registry import command
from pyllm.chat.state import Attachment, shown
from pyllm.chat.talk import ask
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat

_MOST = 16 << 20  # bytes of a file


@command(
    "/file [PATH|-]",
    "attach a file's text to the next message (again for more; -: none), with its tokens",
    "path",
)
def file(chat: Chat, argument: str) -> None:
    if argument == "-":
        chat.attachments.clear()
        chat.show("nothing is attached")
        return
    if argument:
        path, text = read_file(argument)
        chat.attachments.append(Attachment(path.name, text, chat.engine.count(text)))
    for one in chat.attachments:
        chat.show(f"attached: {one.name}, {_amount(one.text, one.tokens)}")
    if not chat.attachments:
        chat.show("nothing is attached")
        return
    _room(chat, sum(one.tokens or 0 for one in chat.attachments))


@command("/read PATH", "send a file's text as your message, after showing its tokens", "path")
def read(chat: Chat, argument: str) -> None:
    if not argument:
        raise PyllmError("expected a path")
    path, text = read_file(argument)
    tokens = chat.engine.count(text)
    chat.show(f"{path.name}: {_amount(text, tokens)}")
    _room(chat, tokens or 0)
    if chat.choose("Enter sends it, n does not> ").strip().lower() in ("n", "no"):
        chat.show("not sent")
        return
    ask(chat, text)


@command("/copy [code]", "the last answer, or its last block of code, to the clipboard", ("code",))
def copy(chat: Chat, argument: str) -> None:
    answer = chat.conversation.answer()
    if answer is None:
        raise PyllmError("there is no answer yet")
    text = answer.text
    if argument == "code":
        found = re.findall(r"^(```+|~~~+)[^\n]*\n(.*?)(?:^\1|\Z)", text, re.MULTILINE | re.DOTALL)
        if not found:
            raise PyllmError("the last answer has no block of code")
        text = found[-1][1]
    elif argument:
        raise PyllmError(f"expected nothing or code, got {argument[:40]!r}")
    chat.show(f"{len(text)} characters {copy_text(text)}")


@command(
    "/save [FILE]", "where the conversation is saved, or a copy of it into FILE, which /load reads", "path"
)
def save(chat: Chat, argument: str) -> None:
    from pyllm.chat.transcript import write_copy

    if not argument:
        if chat.transcript is None:
            chat.show("this conversation is not saved (--no-save); /save FILE does it")
        else:
            chat.show(f"saved as it goes: {chat.transcript.path}")
            chat.show(f"`pyllm chat --resume {chat.transcript.id}` continues it")
        return
    path = _new_file(chat, argument)
    if path is None:
        return
    id = chat.transcript.id if chat.transcript else path.stem
    with _disk(path):
        write_copy(path, id, chat.conversation)
    chat.show(f"saved: {path}")


@command(
    "/load [ID|FILE]",
    "the saved conversations, or go on with another one; this one stays saved",
    "conversation",
)
def load(chat: Chat, argument: str) -> None:
    from pyllm.chat import store
    from pyllm.chat.transcript import read as read_transcript
    from pyllm.chat.transcript import records

    if not argument:
        for one in store.saved()[:20]:
            first = " ".join(one.first.split())[:50]
            chat.show(f"{one.id}  {one.changed:%Y-%m-%d %H:%M}  {one.turns:>3} questions  {one.model}  {first}")
        return
    path = Path(argument).expanduser()
    if "/" in argument or path.suffix or path.is_file():
        conversation, _, _ = read_transcript(path)
        copy = store.create(chat.tell) if chat.transcript is not None else None  # the file itself is left alone
        chat.go_on_with(conversation, copy)
        if copy is not None:
            for record in records(conversation):
                copy.append(record)
    else:
        if chat.transcript is not None and chat.transcript.id == argument:
            raise PyllmError("that is this conversation")
        conversation, transcript = store.resume(argument, chat.tell)
        chat.go_on_with(conversation, transcript)
    was = conversation.model
    if was and was != chat.model:
        chat.show(f"(it was with {was}; it goes on with {chat.model}, /model {was} changes that)")
        chat.record({"model": chat.model})
    show_path(chat, last=4)
    if chat.loading.done and conversation.head:
        chat.take_warm(chat.engine)
        chat.read_ahead()


@command("/export FILE", "the conversation as markdown (.md), or its messages as JSON (.json)", "path")
def export(chat: Chat, argument: str) -> None:
    if not argument:
        raise PyllmError("expected a file that ends in .md or .json")
    form = Path(argument).suffix.lower()
    if form not in (".md", ".markdown", ".json"):
        raise PyllmError(f"{argument}: expected a file that ends in .md or .json")
    path = _new_file(chat, argument)
    if path is None:
        return
    with _disk(path):
        path.write_text(as_json(chat) if form == ".json" else as_markdown(chat), encoding="utf-8")
    chat.show(f"exported: {path}")


def as_json(chat: Chat) -> str:
    """All that was said on this branch, in OpenAI's form."""
    conversation = chat.conversation
    system = [{"role": "system", "content": conversation.system}] if conversation.system is not None else []
    messages = [
        {
            "role": turn.role,
            "content": turn.text,
            **({"reasoning_content": turn.reasoning} if turn.reasoning else {}),
        }
        for turn in conversation.path()
    ]
    return (
        json.dumps({"model": chat.shown, "messages": [*system, *messages]}, indent=2, ensure_ascii=False) + "\n"
    )


def as_markdown(chat: Chat) -> str:
    """All that was said on this branch, for people."""
    parts = [f"# Conversation with {chat.shown}\n"]
    if chat.conversation.system is not None:
        parts.append(f"## System\n\n{chat.conversation.system}\n")
    for turn in chat.conversation.path():
        parts.append(
            f"## {'You' if turn.role == 'user' else shown(turn.model) or 'Assistant'}\n\n{turn.text.strip()}\n"
        )
    return "\n".join(parts)


def read_file(name: str) -> tuple[Path, str]:
    """A file's text. PyllmError for what is none."""
    path = Path(name.strip().strip("'\"")).expanduser()
    with _disk(path):
        if path.is_dir():
            raise PyllmError(f"{path}: expected a file, it is a folder")
        if not path.is_file() and path.exists():
            raise PyllmError(f"{path}: expected a file")
        if (size := path.stat().st_size) > _MOST:
            raise PyllmError(f"{path}: expected at most {_MOST >> 20} MiB of text, it has {size >> 20}")
        data = path.read_bytes()
    if b"\0" in data:
        raise PyllmError(f"{path}: expected text, it looks binary")
    return path, data.decode("utf-8-sig", "replace")


def _amount(text: str, tokens: int | None) -> str:
    count = len(text.splitlines())
    lines = f"{count} line{'s' * (count != 1)}"
    return f"{lines}, {tokens} tokens" if tokens is not None else f"{lines}, {len(text)} characters"


def _room(chat: Chat, tokens: int) -> None:
    context = chat.engine.context
    if context and chat.used + tokens > context:
        chat.tell(f"with the conversation's {chat.used} that is more than the context of {context} tokens")


def _new_file(chat: Chat, argument: str) -> Path | None:
    """The path, unless it is there and the person wants it kept."""
    path = Path(argument).expanduser()
    if path.is_dir():
        raise PyllmError(f"{path}: expected a file, it is a folder")
    if path.exists() and chat.choose(f"{path} is there already; y replaces it> ").strip().lower() not in (
        "y",
        "yes",
    ):
        chat.show("not written")
        return None
    return path


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Errors of the file system name the file."""
    try:
        yield
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}") from None
