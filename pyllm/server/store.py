"""Files and batches on disk: a folder for each caller, documents replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from pyllm.server.batch_protocol import BatchObject, FileObject
from pyllm.server.errors import ApiError, bad_request
from pyllm.server.expiry import KEPT_S

MAX_COUNT = 10_000  # files or batches of a caller
_ID = re.compile(r"(?:file|batch)[-_][0-9a-f]{24}")
_CALLER = re.compile(r"[0-9a-f]{16}|public")
_T = TypeVar("_T", FileObject, BatchObject)


class Store:
    """What one caller keeps; another's is not there. Methods wait for the disk: not for an event loop.

    ApiError tells what is not there, and when there is no room.
    """

    def __init__(self, root: Path, caller: str, limit: int, clock: Callable[[], float]) -> None:
        """root: of all callers. caller: "" where there are no keys. limit: bytes, over all callers."""
        self.caller = caller
        self.folder = root / (caller or "public")
        self._root = root
        self._limit = limit
        self._clock = clock

    # -- files -------------------------------------------------------------------------------------------------

    def path(self, id: str) -> Path:
        """Where a file's content is."""
        return self.folder / f"{self._checked(id, 'file')}.jsonl"

    def now(self) -> int:
        return int(self._clock())

    def add(self, content: IO[bytes], filename: str, purpose: str, seconds: int = KEPT_S) -> FileObject:
        """Keeps an upload, for that long."""
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        self.check_room(size)
        if len(self.files()) >= MAX_COUNT:
            raise ApiError(507, f"there are {MAX_COUNT} files; delete some", code="storage_full")
        id = new_id("file-")
        with _disk_errors(), _replacing(self.path(id)) as file:
            while part := content.read(1 << 20):
                file.write(part)
        return self.register(id, filename, purpose, seconds)

    def register(self, id: str, filename: str, purpose: str, seconds: int = KEPT_S) -> FileObject:
        """Gives content that is there its entry."""
        with _disk_errors():
            size, now = self.path(id).stat().st_size, self.now()
            found = FileObject(
                id=id,
                bytes=size,
                created_at=now,
                filename=filename,
                purpose=purpose,
                expires_at=now + seconds,
            )
            self._write(id, found)
        return found

    def file(self, id: str) -> FileObject:
        found = self._read(self._checked(id, "file"), FileObject)
        if self._expired(found):
            raise _absent(id)
        return found

    def files(self) -> list[FileObject]:
        """The newest first."""
        return [file for file in self._all("file-", FileObject) if not self._expired(file)]

    def delete(self, id: str) -> None:
        self.file(id)
        using = [batch.id for batch in self.batches() if batch.input_file_id == id and _runs(batch)]
        if using:
            raise ApiError(409, f"{id} is the input of {using[0]}, which runs; cancel that first")
        self._drop(id)

    # -- batches -----------------------------------------------------------------------------------------------

    def batch(self, id: str) -> BatchObject:
        return self._read(self._checked(id, "batch"), BatchObject)

    def batches(self) -> list[BatchObject]:
        """The newest first."""
        return self._all("batch_", BatchObject)

    def check_batches(self) -> None:
        """ApiError when there are too many."""
        if len(self.batches()) >= MAX_COUNT:
            raise ApiError(
                507, f"there are {MAX_COUNT} batches; old ones go by themselves", code="storage_full"
            )

    def save(self, batch: BatchObject) -> None:
        with _disk_errors():
            self._write(batch.id, batch)

    # -- what expires ------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Deletes the files that have expired, but for those that a batch reads, and the batches that ended as
        long ago."""
        batches = self.batches()
        read = {batch.input_file_id for batch in batches if _runs(batch)}
        for file in self._all("file-", FileObject):
            if self._expired(file) and file.id not in read:
                self._drop(file.id)
        for batch in batches:
            ended = batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at
            if not _runs(batch) and self.now() >= (ended or batch.created_at) + KEPT_S:
                with _disk_errors():
                    self._entry(batch.id).unlink(missing_ok=True)

    def _expired(self, file: FileObject) -> bool:
        return file.expires_at is not None and self.now() >= file.expires_at

    def _drop(self, id: str) -> None:
        with _disk_errors():
            self._entry(id).unlink(missing_ok=True)
            self.path(id).unlink(missing_ok=True)

    # -- room --------------------------------------------------------------------------------------------------

    def check_room(self, size: int = 0) -> None:
        """ApiError when `size` bytes more are too many."""
        used = 0
        with _disk_errors():
            for folder, _, names in os.walk(self._root):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        used += os.stat(os.path.join(folder, name)).st_size
        if used + size > self._limit:
            raise ApiError(
                507,
                f"files take {used} of {self._limit} bytes, {size} more do not fit; delete some",
                code="storage_full",
            )

    # -- inside ------------------------------------------------------------------------------------------------

    def _checked(self, id: str, kind: str) -> str:
        if not _ID.fullmatch(id) or not id.startswith(kind):
            raise _absent(id)
        return id

    def _entry(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _read(self, id: str, form: type[_T]) -> _T:
        try:
            return msgspec.json.decode(self._entry(id).read_bytes(), type=form)
        except FileNotFoundError:
            raise _absent(id) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ApiError(500, f"{id} cannot be read", code="storage_failed") from error

    def _write(self, id: str, document: msgspec.Struct) -> None:
        with _replacing(self._entry(id)) as file:
            file.write(msgspec.json.encode(document))

    def _all(self, beginning: str, form: type[_T]) -> list[_T]:
        found = []
        if self.folder.is_dir():
            for path in self.folder.glob(f"{beginning}*.json"):
                with contextlib.suppress(ApiError):
                    found.append(self._read(path.stem, form))
        return sorted(found, key=lambda item: (item.created_at, item.id), reverse=True)


def callers(root: Path) -> list[str]:
    """Who has a store; "" where there are no keys."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return ["" if name == "public" else name for name in names if _CALLER.fullmatch(name)]


def new_id(beginning: str) -> str:
    return f"{beginning}{secrets.token_hex(12)}"


def _runs(batch: BatchObject) -> bool:
    return batch.status in ("validating", "in_progress", "finalizing", "cancelling")


def _absent(id: str) -> ApiError:
    return ApiError(404, f"{id!r:.80} is not kept here", code="not_found")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file in the place of `path`, all of it or nothing. Nobody else may read it: it holds prompts."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ApiError(507, f"the disk: {error.strerror or error}", code="storage_failed") from error


def page(items: list[_T], limit: str | None, after: str | None) -> tuple[list[_T], bool]:
    """At most `limit` items after the one called `after`, and whether there are more."""
    if limit is not None and not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= 10_000):
        raise bad_request(f"limit: expected 1 to 10000, got {limit!r:.40}", "limit")
    ids = [item.id for item in items]
    if after is not None and after not in ids:
        raise bad_request(f"after: {after!r:.80} is not kept here", "after")
    first = ids.index(after) + 1 if after is not None else 0
    last = first + int(limit or 20)
    return items[first:last], last < len(items)
