"""Where the rows come from: a file, or standard input."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from pyllm.batch.reading import read_csv, read_lines
from pyllm.batch.row import Record
from pyllm.errors import PyllmError

Kind = Literal["jsonl", "lines", "csv"]
_SAMPLE = 1 << 20  # bytes of a model's beginning: its metadata and the places of its tensors
_END = 64 << 10


class Input:
    """name: a path, or - for standard input. PyllmError when it cannot be read, or holds nothing.

    size: bytes, 0 where nobody knows. identity: of its file. rereadable: records() may be called again.
    """

    def __init__(self, name: str, kind: Kind) -> None:
        self._name = name
        self._kind = kind
        self.rereadable, self.size, self.identity = False, 0, (0, 0)
        if name == "-":
            self._name = "standard input"
            return
        with self._open() as file:
            status = os.fstat(file.fileno())
        self.identity = status.st_dev, status.st_ino
        self.rereadable = stat.S_ISREG(status.st_mode)
        if self.rereadable:
            self.size = status.st_size
            if next(self.records(), None) is None:
                raise self.empty()

    def records(self) -> Iterator[Record]:
        """From the first one."""
        with self._open() as stream:
            if self._kind == "csv":
                yield from read_csv(stream, "\t" if self._name.endswith(".tsv") else ",")
            else:
                yield from read_lines(stream)

    def empty(self) -> PyllmError:
        return PyllmError(f"{self._name}: is empty: expected at least one row")

    def _open(self) -> IO[bytes]:
        try:
            if self._name == "standard input":
                # A file of its own: the thread that reads it may be left waiting when the process ends.
                return open(os.dup(sys.stdin.fileno()), "rb")
            return Path(self._name).open("rb")
        except OSError as error:
            raise PyllmError(f"{self._name}: {error.strerror}") from error


def file_identity(path: Path) -> str:
    """Tells a model's file from others by its content, without reading all of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest.update(b"%d:" % size + file.read(_SAMPLE))
        file.seek(max(0, size - _END))
        digest.update(file.read())
    return digest.hexdigest()
