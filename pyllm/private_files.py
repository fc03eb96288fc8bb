"""Files that only this user and root can have written, and folders of them that stay within a limit."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyllm.amounts import parse_bytes
from pyllm.errors import PyllmError


class UntrustedError(Exception):
    """The folder or a file could have been written by someone else."""


def check(path: Path, found: os.stat_result, kind: Callable[[int], bool]) -> None:
    """UntrustedError unless only the user and root can have made or changed it."""
    if not kind(found.st_mode):
        raise UntrustedError(f"{path}: not what is expected there")
    if found.st_uid not in (os.geteuid(), 0):
        raise UntrustedError(f"{path}: belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"{path}: other users may write to it")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file to read. UntrustedError, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        check(path, os.fstat(fd), stat.S_ISREG)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def new_file(path: Path) -> Iterator[int]:
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
        if os.fstat(fd).st_nlink:  # else another process's prepare_folder() came between
            break
        os.close(fd)
    try:
        yield fd
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        os.close(fd)


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and deletes what killed processes left half written. UntrustedError when others could
    write to it; OSError."""
    import fcntl

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(folder, os.lstat(folder), stat.S_ISDIR)
    for path in files(folder, ".partial"):
        with contextlib.suppress(OSError, UntrustedError), opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a writer that lives holds it
            path.unlink(missing_ok=True)


# -- within a limit --------------------------------------------------------------------------------------------


def allowance(variable: str, most: int, folder: Path, kept: Iterable[Path]) -> int:
    """Bytes that `kept` and more files of the folder may take: what the environment's `variable` says; without
    it `most`, or half of what is free where that is less. PyllmError when the variable is no amount."""
    if chosen := os.environ.get(variable, "").strip():
        try:
            return parse_bytes(chosen)
        except ValueError as error:
            raise PyllmError(f"{variable}: {error}") from None
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return min(most, (shutil.disk_usage(existing).free + bytes_of(kept)) // 2)


def drop_oldest(paths: Iterable[Path], most: int) -> list[Path]:
    """Deletes those that were used longest ago until the others have at most `most` bytes; the others."""
    kept = sorted(paths, key=lambda path: -used_at(path))
    while kept and bytes_of(kept) > most:
        kept.pop().unlink(missing_ok=True)
    return kept


def files(folder: Path, suffix: str) -> list[Path]:
    """The folder's files with this ending; none where it cannot be read."""
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(suffix)]
    except OSError:
        return []


def bytes_of(paths: Iterable[Path]) -> int:
    """Their sizes together."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):  # another process deletes too
            total += path.lstat().st_size
    return total


def used_at(path: Path) -> float:
    """When it was used last, in seconds since 1970; 0: it is gone."""
    try:
        return path.lstat().st_atime
    except OSError:
        return 0.0
