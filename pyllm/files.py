"""Files that appear under their names only when they are whole."""

from __future__ import annotations

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
    what was there before stays as it is."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
        place(partial, path)
    finally:
        partial.unlink(missing_ok=True)
