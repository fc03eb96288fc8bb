"""A job's output: rows are appended and synced in groups, and a file that a crash left is gone on with."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pyllm.batch.row import read_answer_id
from pyllm.errors import PyllmError

_BEGINNING = b'{"id":"batch_req_'
_TORN = 64 << 20  # bytes at the end that a crash may have damaged; more is no crash


class LockedError(PyllmError):
    """Another job has the file."""


class Output:
    """One file of answer rows. job: what names the rows of this job. Locked as long as it is open."""

    def __init__(self, path: Path, job: str, overwrite: bool = False) -> None:
        self.path = path
        self._job = job
        self._overwrite = overwrite
        with self._told():
            existed = path.exists()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._fd = os.open(path, flags, 0o666)
        status = os.fstat(self._fd)
        self.identity = status.st_dev, status.st_ino
        self._regular = stat.S_ISREG(status.st_mode)
        try:
            self._lock()
            if not existed and self._regular:
                _sync_folder(path)
        except BaseException:
            os.close(self._fd)
            raise

    def recover(self) -> Iterator[tuple[int, str]]:
        """(row number, key) of all rows that the file has; what a crash has torn at its end is cut off.

        PyllmError, and nothing is changed, when it holds anything but rows of this job.
        """
        if not self._regular:
            return
        if self._overwrite:
            with self._told():
                os.ftruncate(self._fd, 0)
            return
        good, number = 0, 0
        with self._told(), open(self.path, "rb") as file:
            while line := file.readline(_TORN):
                number += 1
                found = read_answer_id(line[:-1]) if line.endswith(b"\n") else None
                if found is None:
                    self._check_torn(line, number, len(line) + len(file.read(_TORN)))
                    break
                job, key, row = found
                if job != self._job:
                    raise PyllmError(
                        f"{self.path}: line {number} was written for another model or with other options; the "
                        "same command as before goes on with it, --overwrite starts anew"
                    )
                good += len(line)
                yield row, key
        if good < os.fstat(self._fd).st_size:
            with self._told():
                os.ftruncate(self._fd, good)
                os.fsync(self._fd)

    def append(self, lines: Sequence[bytes]) -> None:
        """Adds rows and waits until the disk has them. PyllmError: not all were added, but no part of a row."""
        data = b"".join(line + b"\n" for line in lines)
        before, written = os.fstat(self._fd).st_size, 0
        try:
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
            if self._regular:
                getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            if self._regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, before + data.rfind(b"\n", 0, written) + 1)
            raise PyllmError(
                f"{self.path}: {error.strerror}; the rows before are kept, the same command goes on from there"
            ) from error

    def close(self) -> None:
        os.close(self._fd)

    def _check_torn(self, line: bytes, number: int, rest: int) -> None:
        """A write that was cut off leaves the beginning of a row, or zeros where nothing was written yet."""
        ours = line.startswith(_BEGINNING) or _BEGINNING.startswith(line)
        if rest >= _TORN or not (b"\0" in line or (ours and not line.endswith(b"\n"))):
            raise PyllmError(
                f"{self.path}: line {number} is no row that pyllm batch wrote; give another output, or "
                "--overwrite if the file may go"
            )

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{self.path}: another job is writing it") from None
        except OSError:
            return  # a file system without locks

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PyllmError(f"{self.path}: {error.strerror or error}") from error


class StreamOutput:
    """Rows to a stream: they are sent in the same groups, but nothing can be gone on with."""

    identity = (-1, -1)

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._stream = stream or sys.stdout.buffer

    def recover(self) -> Iterator[tuple[int, str]]:
        return iter(())

    def append(self, lines: Sequence[bytes]) -> None:
        self._stream.write(b"".join(line + b"\n" for line in lines))
        self._stream.flush()

    def close(self) -> None:
        pass


def _sync_folder(path: Path) -> None:
    """So that the file's name survives a crash too."""
    with contextlib.suppress(OSError):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
