"""The folder of packed weights: which file belongs to a model, who may be trusted, and what has to go.

A file is named after the model's content and the way this build packs, so that a changed model or a new version
never meets an old file, and copies of a model share one. Reading a model to know its content takes a second, so
a small note remembers the content of what has been read: under the file's device, inode, size and times of
change, which a file that was written to, or put in another's place, never shares with it.

PYLLM_PACK_LIMIT bounds the folder (default: 20 GB, or half of what is free where that is less); 0 turns it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm import pack_file
from pyllm.amounts import parse_bytes
from pyllm.errors import PyllmError
from pyllm.models import home
from pyllm.pack_file import BadPackError
from pyllm.progress import megabytes

if TYPE_CHECKING:
    from pyllm import _core

LIMIT = 20 * 10**9
# A smaller model packs while its vocabulary is opened beside it.
SMALLEST = 64 << 20
_RACY_NS = 2 * 10**9  # a file changed this recently can change again without its times telling


class UntrustedError(Exception):
    """The folder or a file could have been written by someone else."""


@dataclass(frozen=True)
class Pack:
    """A file of the folder, for showing. `problem`: why it will not be used."""

    path: Path
    bytes: int
    used: float  # seconds since 1970
    model: str = ""
    problem: str = ""


def folder() -> Path:
    """Where packed weights are kept."""
    return home() / "packed"


def limit() -> int:
    """Bytes that the folder may hold. PyllmError when PYLLM_PACK_LIMIT is no amount."""
    if chosen := os.environ.get("PYLLM_PACK_LIMIT", "").strip():
        try:
            return parse_bytes(chosen)
        except ValueError as error:
            raise PyllmError(f"PYLLM_PACK_LIMIT: {error}") from None
    existing = next(path for path in (folder(), *folder().parents) if path.exists())
    return min(LIMIT, (shutil.disk_usage(existing).free + _bytes(_files(".pack"))) // 2)


def packing() -> str:
    """How this build packs: part of a file's name."""
    from pyllm import _core

    return f"{_core.packing_fingerprint():016x}"


# -- whose file ------------------------------------------------------------------------------------------------


def known_content(identities: Sequence[tuple[int, ...]]) -> str | None:
    """The content of a model that was read before and is the same since."""
    return _content(_note(identities))


def _content(note: Path) -> str | None:
    try:
        with _opened(note) as fd:
            text = os.read(fd, 65).decode("ascii", "replace")
    except (OSError, UntrustedError):
        return None
    return text if len(text) == 64 and not text.strip("0123456789abcdef") else None


def content_of(paths: Sequence[str], identities: Sequence[tuple[int, ...]], threads: int = 0) -> str:
    """SHA-256 over the SHA-256s of the files' blocks: reads everything. BadPackError when a file has changed
    since it had its identity; OSError."""
    digest = hashlib.sha256()
    for path, identity in zip(paths, identities, strict=True):
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            parts = [(at, min(pack_file.BLOCK, size - at)) for at in range(0, size, pack_file.BLOCK)]
            for part in pack_file.digests(file.fileno(), parts, threads):
                digest.update(part)
            if identity_of(file.fileno()) != identity:
                raise BadPackError(f"{path} has changed since it was opened")
            digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def identity_of(fd: int) -> tuple[int, ...]:
    """As GgufFile.identities, of a file that is open."""
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def remember(identities: Sequence[tuple[int, ...]], content: str) -> None:
    """Notes a model's content, so that it need not be read again. OSError."""
    if any(time.time_ns() - max(identity[3:]) < _RACY_NS for identity in identities):
        return
    with _new_file(_note(identities)) as fd:
        os.write(fd, content.encode())


def _note(identities: Sequence[tuple[int, ...]]) -> Path:
    name = hashlib.sha256(repr([tuple(identity) for identity in identities]).encode()).hexdigest()
    return folder() / f"{name[:32]}.content"


# -- a model's file --------------------------------------------------------------------------------------------


def pack_path(content: str, size: int) -> Path:
    """The file for a model of this content, whose own files have `size` bytes."""
    return folder() / f"{content[:32]}-{size}-{packing()}.pack"


def any_of_size(size: int) -> bool:
    """Whether some file may belong to a model whose own files have `size` bytes."""
    return any(path.name.endswith(f"-{size}-{packing()}.pack") for path in _files(".pack"))


def open_pack(path: Path, content: str) -> _core.PackedWeights | None:
    """The weights in `path`, mapped; None when it is not there. What is damaged is deleted, and raises
    BadPackError; UntrustedError for what others could have written; OSError."""
    from pyllm import _core

    try:
        with _opened(path) as fd:
            about = pack_file.read(fd)
            if (about.content, about.packing) != (content, packing()):
                raise BadPackError("it belongs to another model")
            if not pack_file.is_sealed(fd, about):
                pack_file.verify(fd, about)
            with contextlib.suppress(OSError):  # a folder that can only be read
                pack_file.seal(fd, about)
            return _core.PackedWeights(fd, list(about.weights))
    except FileNotFoundError:
        return None
    except (BadPackError, PyllmError) as error:
        path.unlink(missing_ok=True)
        raise BadPackError(f"{path}: {error}") from error


def keep(
    path: Path, pieces: Sequence[_core.PackedPiece], content: str, model: str, stop: Callable[[], None]
) -> None:
    """Writes a model's file, after the least recently used ones have made room, unless another process is
    writing it. `stop` is called often and may raise. BadPackError when the file is larger than the folder may
    be; OSError, UntrustedError."""
    prepare()
    if any(other.name.startswith(path.name) for other in _files(".partial")):
        return
    views = [(piece.name, memoryview(piece)) for piece in pieces]
    make_room(sum(len(view) for _, view in views))
    with _new_file(path) as fd:
        pack_file.write(fd, views, content, packing(), model, stop)


# -- the folder ------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Makes the folder, and deletes what killed processes left half written. UntrustedError when others could
    write to it; OSError."""
    import fcntl

    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(folder(), os.lstat(folder()), stat.S_ISDIR)
    for path in _files(".partial"):
        with contextlib.suppress(OSError, UntrustedError), _opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a writer that lives holds it
            path.unlink(missing_ok=True)


def make_room(needed: int) -> None:
    """Deletes the least recently used files until `needed` more bytes fit, and notes about what is not kept any
    more. Whoever has a deleted file mapped keeps it. BadPackError when they can never fit."""
    most = limit()
    if needed > most:
        raise BadPackError(
            f"{folder()}: {megabytes(needed)} are needed, {megabytes(most)} may be taken "
            "(half of what is free, or PYLLM_PACK_LIMIT)"
        )
    kept = sorted(_files(".pack"), key=lambda path: -_used(path))
    while kept and _bytes(kept) + needed > most:
        kept.pop().unlink(missing_ok=True)
    contents = {path.name[:32] for path in kept}
    for note in _files(".content"):
        with contextlib.suppress(OSError, UntrustedError), _opened(note) as fd:
            if os.read(fd, 32).decode("ascii", "replace") not in contents:
                note.unlink(missing_ok=True)


def packs() -> list[Pack]:
    """What is kept, the last used first."""
    found = []
    for path in _files(".pack"):
        model = problem = ""
        try:
            with _opened(path) as fd:
                about = pack_file.read(fd)
                model = about.model
                if about.packing != packing():
                    problem = "packed by another version"
        except (OSError, UntrustedError, BadPackError) as error:
            problem = str(error)
        found.append(Pack(path, _bytes([path]), _used(path), model, problem))
    return sorted(found, key=lambda pack: -pack.used)


def verify(pack: Pack) -> str:
    """Why the file is not what was written, after reading all of it; "" when it is."""
    try:
        with _opened(pack.path) as fd:
            pack_file.verify(fd, pack_file.read(fd))
    except (OSError, UntrustedError, BadPackError) as error:
        return str(error)
    return ""


def forget(paths: Sequence[Path]) -> int:
    """Deletes what is kept of the model in `paths`, all parts of it; the bytes freed. OSError."""
    status = [path.stat() for path in paths]
    note = _note([(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in status])
    content = _content(note)
    if content is None:
        return 0
    gone = [note, *(path for path in _files(".pack") if path.name.startswith(content[:32]))]
    freed = _bytes(gone)
    for path in gone:
        path.unlink(missing_ok=True)
    return freed


def clear() -> int:
    """Deletes all that is kept; the bytes freed. OSError."""
    paths = [path for suffix in (".pack", ".partial", ".content") for path in _files(suffix)]
    freed = _bytes(paths)
    for path in paths:
        path.unlink(missing_ok=True)
    return freed


def _files(suffix: str) -> list[Path]:
    try:
        return [folder() / name for name in os.listdir(folder()) if name.endswith(suffix)]
    except OSError:
        return []


def _bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):  # another process deletes too
            total += path.lstat().st_size
    return total


def _used(path: Path) -> float:
    try:
        return path.lstat().st_atime
    except OSError:
        return 0.0


def _check(path: Path, found: os.stat_result, kind: Callable[[int], bool]) -> None:
    """UntrustedError unless only the user and root can have made or changed it."""
    if not kind(found.st_mode):
        raise UntrustedError(f"{path}: not what is expected there")
    if found.st_uid not in (os.geteuid(), 0):
        raise UntrustedError(f"{path}: belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{path}: other users may write to it")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        _check(path, os.fstat(fd), stat.S_ISREG)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """An empty file that takes `path`'s place when the block ends well, and vanishes when it does not."""
    import fcntl

    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(fd)
            partial.unlink(missing_ok=True)
            raise
        if os.fstat(fd).st_nlink:  # else prepare() of another process came between
            break
        os.close(fd)
    try:
        yield fd
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        os.close(fd)
