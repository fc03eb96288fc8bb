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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm import pack_file
from pyllm.errors import PyllmError
from pyllm.models import home
from pyllm.pack_file import BadPackError
from pyllm.private_files import (
    UntrustedError,
    allowance,
    bytes_of,
    drop_oldest,
    files,
    new_file,
    opened,
    prepare_folder,
    used_at,
)
from pyllm.progress import megabytes

if TYPE_CHECKING:
    from pyllm import _core

LIMIT = 20 * 10**9
# A smaller model packs while its vocabulary is opened beside it.
SMALLEST = 64 << 20
_RACY_NS = 2 * 10**9  # a file changed this recently can change again without its times telling


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
    return allowance("PYLLM_PACK_LIMIT", LIMIT, folder(), _files(".pack"))


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
        with opened(note) as fd:
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


def model_content(file: _core.GgufFile, threads: int = 0) -> str:
    """The content of a model that is open, noted for next time where possible. BadPackError, OSError."""
    content = known_content(file.identities)
    if content is None:
        content = content_of(file.paths, file.identities, threads)
        with contextlib.suppress(OSError, UntrustedError):
            prepare()
            remember(file.identities, content)
    return content


def identity_of(fd: int) -> tuple[int, ...]:
    """As GgufFile.identities, of a file that is open."""
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def remember(identities: Sequence[tuple[int, ...]], content: str) -> None:
    """Notes a model's content, so that it need not be read again. OSError."""
    if any(time.time_ns() - max(identity[3:]) < _RACY_NS for identity in identities):
        return
    with new_file(_note(identities)) as fd:
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
        with opened(path) as fd:
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
    with new_file(path) as fd:
        pack_file.write(fd, views, content, packing(), model, stop)


# -- the folder ------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Makes the folder, and deletes what killed processes left half written. UntrustedError when others could
    write to it; OSError."""
    prepare_folder(folder())


def make_room(needed: int) -> None:
    """Deletes the least recently used files until `needed` more bytes fit, and notes about what is not kept any
    more. Whoever has a deleted file mapped keeps it. BadPackError when they can never fit."""
    most = limit()
    if needed > most:
        raise BadPackError(
            f"{folder()}: {megabytes(needed)} are needed, {megabytes(most)} may be taken "
            "(half of what is free, or PYLLM_PACK_LIMIT)"
        )
    contents = {path.name[:32] for path in drop_oldest(_files(".pack"), most - needed)}
    for note in _files(".content"):
        with contextlib.suppress(OSError, UntrustedError), opened(note) as fd:
            if os.read(fd, 32).decode("ascii", "replace") not in contents:
                note.unlink(missing_ok=True)


def packs() -> list[Pack]:
    """What is kept, the last used first."""
    found = []
    for path in _files(".pack"):
        model = problem = ""
        try:
            with opened(path) as fd:
                about = pack_file.read(fd)
                model = about.model
                if about.packing != packing():
                    problem = "packed by another version"
        except (OSError, UntrustedError, BadPackError) as error:
            problem = str(error)
        found.append(Pack(path, bytes_of([path]), used_at(path), model, problem))
    return sorted(found, key=lambda pack: -pack.used)


def verify(pack: Pack) -> str:
    """Why the file is not what was written, after reading all of it; "" when it is."""
    try:
        with opened(pack.path) as fd:
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
    freed = bytes_of(gone)
    for path in gone:
        path.unlink(missing_ok=True)
    return freed


def clear() -> int:
    """Deletes all that is kept; the bytes freed. OSError."""
    paths = [path for suffix in (".pack", ".partial", ".content") for path in _files(suffix)]
    freed = bytes_of(paths)
    for path in paths:
        path.unlink(missing_ok=True)
    return freed


def _files(suffix: str) -> list[Path]:
    return files(folder(), suffix)
