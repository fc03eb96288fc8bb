"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def place(partial: Path, path: Path) -> None:
    """Makes a finished file appear under its name, whole even if the power fails now."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes `path`'s place when the block ends well; until then, and when it does not,
    what was there before stays as it is. What killed processes left of the same file is removed."""
    _remove_stale(path)
    partial, file = _create(path)
    try:
        with file:
            yield file
        place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _create(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        file = open(partial, "xb")  # noqa: SIM115  (the caller closes it)
        _lock(file, wait=True)
        if os.name != "posix" or os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # another process took it for stale before it was locked


def _lock(file: BinaryIO, wait: bool = False) -> bool:
    """Marks a file as one that is being written, for as long as it is open. False where that cannot be, or,
    without `wait`, where another process has marked it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # not on Windows, nor on every network file system
        return False
    return True


def _remove_stale(path: Path) -> None:
    """Partial files of `path` whose writers are gone; a writer that lives has its file locked."""
    for name in glob.glob(f".{glob.escape(path.name)}.????????.partial", root_dir=path.parent):
        with contextlib.suppress(OSError):
            partial = path.parent / name
            flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(partial, flags), "rb+") as file:
                if _lock(file):
                    partial.unlink()
