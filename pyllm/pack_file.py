"""The file that holds a model's packed weights: written once, front to back, and never changed again. (Or keys
and values of a text: see kv_file.py.)

The weights' bytes come first, each weight at a multiple of 64. Then a JSON document tells where each one lies,
with a SHA-256 of every 8 MiB of the bytes; then come the document's SHA-256, its length, and a magic number.
So a file that was cut off has no end, and no number in it is used before its checksum was.

The document also holds a time that the file gets as its modification time when it is complete. Whoever changes
the file changes that time; such a file is read and compared with its checksums before it is used again.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAGIC = b"pyllm pack 00001"
ALIGNMENT = 64
# Large and at borders of its own size: then the page cache holds the file in huge pages.
BLOCK = 8 << 20
LONGEST = 64 << 20  # document; 300 bytes a weight is usual
_END = struct.Struct("<32sQ16s")


class BadPackError(Exception):
    """Not a whole and unchanged file of packed weights, or not the one that was wanted."""


@dataclass(frozen=True)
class About:
    """What a file says of itself."""

    content: str  # of the model: packs.content_of
    packing: str  # packs.packing
    model: str  # name of the model's file, for people
    weights: tuple[tuple[str, int, int], ...]  # name, offset, bytes
    bytes: int  # of all weights, with what lies between them
    blocks: tuple[str, ...]  # SHA-256 of every BLOCK bytes
    modified: int  # seconds; see above


def write(
    fd: int,
    pieces: Iterable[tuple[str, memoryview]],
    content: str,
    packing: str,
    model: str,
    stop: Callable[[], None],
    sync: bool = True,
) -> About:
    """Writes a whole file into the empty `fd` and syncs it. `stop` is called often and may raise to end it.
    OSError when the disk is full or fails. Not `sync`: a loss of power may leave what verify() refuses."""
    places: list[tuple[str, int, int]] = []
    blocks: list[str] = []
    digest = hashlib.sha256()
    waiting: list[memoryview] = []
    size = offset = 0  # waiting, and all

    def flush() -> None:
        nonlocal waiting, size, digest
        stop()
        for part in waiting:
            digest.update(part)
        _write_all(fd, waiting)
        blocks.append(digest.hexdigest())
        if sync and len(blocks) % 8 == 0:
            os.fsync(fd)  # little by little: the last one cannot be interrupted
        waiting, size, digest = [], 0, hashlib.sha256()

    def add(data: memoryview) -> None:
        nonlocal size, offset
        while len(data):
            part = data[: BLOCK - size]
            waiting.append(part)
            size += len(part)
            offset += len(part)
            data = data[len(part) :]
            if size == BLOCK:
                flush()

    for name, data in pieces:
        places.append((name, offset, len(data)))
        add(data)
        add(memoryview(bytes(-offset % ALIGNMENT)))
    if size:
        flush()
    modified = int(time.time()) // 2 * 2  # what every file system can hold
    about = About(content, packing, model, tuple(places), offset, tuple(blocks), modified)
    document = json.dumps(asdict(about)).encode()
    _write_all(fd, [memoryview(document + _END.pack(hashlib.sha256(document).digest(), len(document), MAGIC))])
    stop()
    if sync:
        os.fsync(fd)
    seal(fd, about)
    stop()
    return about


def seal(fd: int, about: About) -> None:
    """Sets the times that say: complete and unchanged, used now."""
    os.utime(fd, ns=(time.time_ns(), about.modified * 10**9))


def read(fd: int) -> About:
    """What the file says of itself, every number within the file. BadPackError, OSError."""
    size = os.fstat(fd).st_size
    if size < _END.size:
        raise BadPackError("too short")
    digest, length, magic = _END.unpack(read_at(fd, size - _END.size, _END.size))
    if magic != MAGIC:
        raise BadPackError("it does not end as a pack does: cut off, or something else")
    if length > min(LONGEST, size - _END.size):
        raise BadPackError("its end tells an impossible length")
    document = read_at(fd, size - _END.size - length, length)
    if hashlib.sha256(document).digest() != digest:
        raise BadPackError("its description does not match its checksum")
    try:
        about = _parse(json.loads(document))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadPackError(f"its description makes no sense: {error}") from error
    if about.bytes != size - _END.size - length or len(about.blocks) != -(-about.bytes // BLOCK):
        raise BadPackError("its description tells another size")
    if any(offset % ALIGNMENT or offset + count > about.bytes for _, offset, count in about.weights):
        raise BadPackError("its description names places outside it")
    return about


def is_sealed(fd: int, about: About) -> bool:
    """Whether nobody has changed the file since it was complete."""
    return os.fstat(fd).st_mtime_ns == about.modified * 10**9


def verify(fd: int, about: About) -> None:
    """BadPackError unless all bytes match their checksums. Reads the whole file, on all cores."""
    blocks = [(i * BLOCK, min(BLOCK, about.bytes - i * BLOCK)) for i in range(len(about.blocks))]
    for i, (found, expected) in enumerate(zip(digests(fd, blocks), about.blocks, strict=True)):
        if found.hex() != expected:
            raise BadPackError(f"bytes {i * BLOCK} and up do not match their checksum")


def digests(fd: int, parts: Sequence[tuple[int, int]], threads: int = 0) -> list[bytes]:
    """SHA-256 of each (offset, bytes) of a file. threads 0: one per core that may be used."""
    from concurrent.futures import ThreadPoolExecutor

    from pyllm import _core

    with ThreadPoolExecutor(threads or _core.cpu_threads()) as pool:
        return list(pool.map(lambda part: _digest(fd, *part), parts))


def _digest(fd: int, offset: int, count: int) -> bytes:
    digest = hashlib.sha256()
    for at in range(offset, offset + count, 1 << 20):
        digest.update(read_at(fd, at, min(1 << 20, offset + count - at)))
    return digest.digest()


def _parse(data: Mapping[str, Any]) -> About:
    weights = []
    for name, offset, count in data["weights"]:
        weights.append((_text(name), _whole(offset), _whole(count)))
    return About(
        content=_text(data["content"]),
        packing=_text(data["packing"]),
        model=_text(data["model"]),
        weights=tuple(weights),
        bytes=_whole(data["bytes"]),
        blocks=tuple(_text(block) for block in data["blocks"]),
        modified=_whole(data["modified"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r:.40}")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise TypeError(f"expected a whole number, found {value!r:.40}")
    return value


def read_at(fd: int, offset: int, count: int) -> bytes:
    """Bytes of a file. BadPackError when it ends before."""
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise BadPackError("it ends too soon")
        data += more
    return data


def _write_all(fd: int, parts: list[memoryview]) -> None:
    parts = list(parts)
    while parts:
        written = os.writev(fd, parts[:1024])
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]
