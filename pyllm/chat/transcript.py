"""A conversation's file: one JSON record a line, only ever appended to.

A line is written at once, so a kill loses at most the line being written; what a loss of power can take is
bounded by `_SYNC_S`. A half line at the end, which only a kill can leave, is dropped when the file is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pyllm.chat.tree import Conversation
from pyllm.errors import PyllmError

VERSION = 1
_SYNC_S = 0.5
_MAX_BYTES = 1 << 30


class TranscriptError(PyllmError):
    """A file that is no transcript, or a damaged one. The file is left as it is."""


class Transcript:
    """Appends records to `path`, which comes into being with the first turn.

    What cannot be written is kept and tried again with the next record; `failed` is told once.
    begun: whether anything was said.
    """

    def __init__(
        self,
        path: Path,
        id: str,
        failed: Callable[[str], None],
        whole: int | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """whole: bytes of an existing file that are whole lines. release: called when it is closed."""
        self.path = path
        self.id = id
        self._failed = failed
        self._release = release
        self._file: int | None = None
        self._size = whole or 0
        self._waiting = b"" if whole is not None else _line(header(id))
        self.begun = whole is not None
        self._synced = time.monotonic()
        self._told = False

    def append(self, record: Mapping[str, Any], sync: bool = False) -> None:
        """Writes a record now; `sync`: onto the disk too."""
        self._waiting += _line(record)
        self.begun = self.begun or "turn" in record
        if not self.begun:
            return
        try:
            self._write(sync)
        except OSError as error:
            if not self._told:
                self._told = True
                self._failed(
                    f"{self.path}: {error.strerror or error}: the conversation is not being saved (it is tried "
                    "again with every message; /save FILE writes it elsewhere)"
                )

    def _write(self, sync: bool) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        os.ftruncate(self._file, self._size)  # half a line, of a kill or a full disk
        os.lseek(self._file, self._size, os.SEEK_SET)
        left = memoryview(self._waiting)
        while left:
            left = left[os.write(self._file, left) :]
        self._size += len(self._waiting)
        self._waiting = b""
        self._told = False
        now = time.monotonic()
        if sync or now - self._synced > _SYNC_S:
            os.fsync(self._file)
            self._synced = now

    def close(self) -> None:
        """Onto the disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the record's own write has told
                os.fsync(self._file)
            os.close(self._file)
            self._file = None
        self._release()


def header(id: str) -> dict[str, Any]:
    """The first record."""
    return {"pyllm": "chat", "version": VERSION, "id": id, "at": datetime.now().isoformat(timespec="seconds")}


def read(path: Path) -> tuple[Conversation, dict[str, Any], int]:
    """The conversation in a file, its header, and how many bytes of it are whole lines.

    TranscriptError says where and what is wrong; OSError becomes one."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TranscriptError(f"{path}: expected a conversation, found more than {_MAX_BYTES >> 30} GiB")
        data = path.read_bytes()
    except OSError as error:
        raise TranscriptError(f"{path}: {error.strerror or error}") from None
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    if not lines:
        raise TranscriptError(f"{path}: expected a conversation of pyllm chat, found no whole line")
    head = _record(path, 1, lines[0])
    if head.get("pyllm") != "chat":
        raise TranscriptError(
            f"{path}: expected a conversation of pyllm chat, its first line says nothing of it"
        )
    if head.get("version") != VERSION:
        raise TranscriptError(
            f"{path}: expected version {VERSION}, found {head.get('version')!r:.20}: another pyllm wrote it"
        )
    conversation = Conversation()
    for number, line in enumerate(lines[1:], 2):
        record = _record(path, number, line)
        try:
            conversation.apply(record)
        except PyllmError as error:
            raise TranscriptError(_broken(path, number, str(error))) from None
    return conversation, head, whole


def records(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as the shortest list of records that makes it."""
    found: list[dict[str, Any]] = [{"model": conversation.model}]
    if conversation.system is not None:
        found.append({"system": conversation.system})
    for turn in conversation.turns.values():
        one: dict[str, Any] = {"turn": turn.id, "parent": turn.parent, "role": turn.role}
        if turn.role == "user":
            found.append({**one, "text": turn.text})
            continue
        found.append({**one, "model": turn.model})
        found.append({"add": turn.id, "text": turn.text, "reasoning": turn.reasoning})
        found.append({"end": turn.id, "finish": turn.finish})
    found += [{"mark": id} for id in sorted(conversation.marks)]
    found += [{"cut": id, "summary": summary} for id, summary in conversation.cuts]
    return [*found, {"head": conversation.head}]


def write_copy(path: Path, id: str, conversation: Conversation) -> None:
    """The whole conversation as a new file, which appears at once."""
    data = b"".join(map(_line, [header(id), *records(conversation)]))
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise TranscriptError(_broken(path, number, "it is not JSON")) from None
    if not isinstance(record, dict):
        raise TranscriptError(_broken(path, number, "it is not a JSON object"))
    return record


def _broken(path: Path, number: int, why: str) -> str:
    if number == 1:
        return f"{path}: expected a conversation of pyllm chat, the first line cannot be read: {why}"
    return (
        f"{path}: line {number} cannot be read: {why}. The file was not changed; the lines before are whole: "
        f"`head -n {number - 1}` of it into another file, and /load that"
    )


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
