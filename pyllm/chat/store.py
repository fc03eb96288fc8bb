"""Where conversations are kept: one file each, in a folder that only the user may read."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm.chat.transcript import Transcript, TranscriptError, read
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyllm.chat.tree import Conversation

_ID = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")


def folder() -> Path:
    """PYLLM_HOME, or where the platform keeps users' data: conversations are no cache."""
    if os.environ.get("PYLLM_HOME"):
        from pyllm.models import home

        return home() / "chats"
    import platformdirs

    return Path(platformdirs.user_data_dir("pyllm", appauthor=False)) / "chats"


def new_id() -> str:
    """Sorts by time, and is short enough to type."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def path_of(id: str) -> Path:
    """The file of a conversation. PyllmError for what is no id."""
    if not _ID.fullmatch(id):
        raise PyllmError(f"conversation {id!r:.80}: expected an id as `pyllm chat --list` shows them")
    return folder() / f"{id}.jsonl"


def newest() -> str:
    """The id of the conversation that was changed last."""
    paths = _paths()
    if not paths:
        raise PyllmError(f"there is no conversation to continue in {folder()}")
    return max(paths, key=lambda path: path.stat().st_mtime_ns).stem


@dataclass(frozen=True)
class Saved:
    """One line of the list."""

    id: str
    changed: datetime
    model: str
    turns: int
    first: str  # what the user said first, or what is wrong with the file


def saved() -> list[Saved]:
    """All conversations, the one changed last first."""
    found = []
    for path in _paths():
        changed = datetime.fromtimestamp(path.stat().st_mtime)
        try:
            conversation, _, _ = read(path)
        except TranscriptError as error:
            found.append(Saved(path.stem, changed, "?", 0, f"unreadable: {error}"))
            continue
        first = next((turn.text for turn in conversation.turns.values()), "")
        found.append(Saved(path.stem, changed, conversation.model, len(conversation.questions()), first))
    return sorted(found, key=lambda one: one.changed, reverse=True)


def create(failed: Callable[[str], None]) -> Transcript:
    """A new conversation's file."""
    id = new_id()
    path = path_of(id)
    return Transcript(path, id, failed, release=_hold(path))


def resume(id: str, failed: Callable[[str], None]) -> tuple[Conversation, Transcript]:
    """A kept conversation, to be continued in its file. Ids may be shortened as long as one is meant."""
    path = path_of(id)
    if not path.exists():
        near = [other for other in _paths() if other.stem.startswith(id)]
        if len(near) != 1:
            what = f"{len(near)} that begin so" if near else "none"
            raise PyllmError(f"conversation {id}: found {what} in {folder()}; `pyllm chat --list` shows them")
        path = near[0]
    release = _hold(path)
    try:
        conversation, _, whole = read(path)
    except BaseException:
        release()
        raise
    return conversation, Transcript(path, path.stem, failed, whole, release)


def _hold(path: Path) -> Callable[[], None]:
    """Nobody else appends to it until what this returns is called. PyllmError when somebody does."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise PyllmError(f"conversation {path.stem} is open in another pyllm chat") from None
    except OSError:
        return lambda: None  # the transcript will tell why it cannot be written

    def release() -> None:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held: nobody can hold the same file any more
        lock.release()

    return release


def _paths() -> list[Path]:
    try:
        return sorted(folder().glob("*.jsonl"))
    except OSError as error:
        raise PyllmError(f"{folder()}: {error.strerror or error}") from None
