"""Warm resume: a conversation's keys and values lie beside its transcript, so that nothing need be read again.

They are written when one leaves the conversation, and before that behind the prompt when it has grown by half:
so a kill costs about a third of the reading at most, and all writing is some three times the last one. Whatever
is wrong with them, the conversation is read as if they were not there.

PYLLM_KV_LIMIT bounds what all conversations keep (default: 5 GB, or half of what is free where that is less);
those used longest ago go first; 0 turns it off.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.engine import Engine
    from pyllm.chat.state import Chat

SUFFIX = ".kv"
LIMIT = 5 * 10**9
LEAST = 128  # tokens: fewer are read at once
_NEW = 32  # tokens that are worth another file
_GROWN = 512  # tokens, and half of what is there: to be written behind the prompt
_LARGE = 300 * 10**6  # bytes: the person is told what is waited for


class Warm:
    """The keys and values of one conversation. path: where they lie; None: nowhere.

    told: for /why, what became of those of the last session."""

    def __init__(self, transcript: Path | None = None) -> None:
        self.path = transcript.with_suffix(SUFFIX) if transcript else None
        self.told = ""
        self._kept: list[int] = []  # tokens in the file
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, engine: Engine) -> list[int]:
        """Gives the engine what was kept; the tokens that it need not read."""
        if self.path is None or not engine.kv_bytes_per_token or not self.path.exists() or not _limit():
            return []
        try:
            self._kept = engine.load_kv(self.path)
        except PyllmError as error:
            self.told = f"the keys and values kept of the last session were not used: {error}"
            return []
        self.told = f"{len(self._kept)} tokens were read in an earlier session: their keys and values were kept"
        return self._kept

    def grown(self, chat: Chat) -> None:
        """After an answer: writes them behind the prompt, where enough has been added."""
        if self._thread is not None and self._thread.is_alive():
            return
        if chat.used - len(self._kept) < max(_GROWN, len(self._kept) // 2):
            return
        if tokens := self._worth_keeping(chat):
            self._thread = threading.Thread(target=self._write, args=(chat.engine, tokens), daemon=True)
            self._thread.start()

    def leave(self, chat: Chat) -> None:
        """Writes them now. Ctrl-C ends it: then those written before stay. What fails here is no error."""
        self._end_writing()
        try:
            tokens = self._worth_keeping(chat)
            if not tokens:
                return
            if chat.terminal and len(tokens) * chat.engine.kv_bytes_per_token > _LARGE:
                chat.tell("keeping the conversation's keys and values for a quick start; Ctrl-C to leave now")
            self._write(chat.engine, tokens)
        except (KeyboardInterrupt, PyllmError, OSError):
            pass

    def forget(self) -> None:
        """Another model goes on with the conversation."""
        self._end_writing()
        self._kept = []
        self.told = ""

    def _end_writing(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._stop.clear()

    def _worth_keeping(self, chat: Chat) -> list[int]:
        """The conversation's tokens, when the file lacks enough of them; else none."""
        if (
            self.path is None
            or chat.transcript is None
            or not chat.transcript.begun
            or not chat.conversation.head
        ):
            return []
        if not chat.loading.done or chat.loading.error is not None or not chat.engine.kv_bytes_per_token:
            return []
        try:
            tokens = chat.engine.prompt(chat.conversation.messages()).tokens
        except PyllmError:  # the template refuses it, or the engine has ended
            return []
        known = self._kept == tokens[: len(self._kept)] and len(tokens) - len(self._kept) < _NEW
        return [] if known or len(tokens) < LEAST else tokens

    def _write(self, engine: Engine, tokens: list[int]) -> None:
        path = self.path
        assert path is not None
        with contextlib.suppress(_StopError, PyllmError), _private() as problem:
            if make_room(path, len(tokens) * engine.kv_bytes_per_token):
                count = engine.save_kv(tokens, path, self._check)
                self._kept = tokens[:count] if count else self._kept
        if problem:
            self.told = f"the keys and values of this conversation cannot be kept: {problem[0]}"

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StopError


class _StopError(Exception):
    pass


@contextmanager
def _private() -> Iterator[list[str]]:
    """Trouble with the disk, or with who may write there, ends the block and is in the list."""
    from pyllm.private_files import UntrustedError

    problem: list[str] = []
    try:
        yield problem
    except UntrustedError as error:
        problem.append(str(error))
    except OSError as error:
        problem.append(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))


# -- all conversations -----------------------------------------------------------------------------------------


def folder() -> Path:
    """Where they are: that of the transcripts."""
    from pyllm.chat import store

    return store.folder()


def kept() -> list[Path]:
    """The files of all conversations."""
    from pyllm.private_files import files

    return files(folder(), SUFFIX)


def limit() -> int:
    """Bytes that they may take. PyllmError when PYLLM_KV_LIMIT is no amount."""
    from pyllm.private_files import allowance

    return allowance("PYLLM_KV_LIMIT", LIMIT, folder(), kept())


def _limit() -> int:
    with contextlib.suppress(PyllmError):
        return limit()
    return 0


def make_room(path: Path, needed: int) -> bool:
    """Deletes those used longest ago, and those without a conversation, until `path` may have `needed` bytes.
    False when it may not have them at all. UntrustedError, OSError."""
    from pyllm.private_files import drop_oldest, prepare_folder

    prepare_folder(path.parent)
    most = _limit()
    if needed > most:
        return False
    others = [other for other in kept() if other != path]
    for other in others:
        if not other.with_suffix(".jsonl").exists():
            other.unlink(missing_ok=True)
    drop_oldest([other for other in others if other.exists()], most - needed)
    return True


def clear() -> int:
    """Deletes them all; the bytes freed. OSError."""
    from pyllm.private_files import bytes_of

    paths = kept()
    freed = bytes_of(paths)
    for path in paths:
        path.unlink(missing_ok=True)
    return freed


def problem_of(path: Path, verify: bool) -> str:
    """Why a file would not be used, as far as it can be told without its model; "" when nothing is known."""
    from pyllm import pack_file
    from pyllm.pack_file import BadPackError
    from pyllm.private_files import UntrustedError, opened

    try:
        with opened(path) as fd:
            about = pack_file.read(fd)
            if verify:
                pack_file.verify(fd, about)
    except (OSError, UntrustedError, BadPackError) as error:
        return str(error)
    return ""
