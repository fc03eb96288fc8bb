"""Keys and values of a text in a file, so that a later process need not compute them again.

The file has the form of pack_file.py: the blocks of 16 tokens, all layers, as the engine's backends keep them,
and then the tokens they belong to. It can be used by whoever has the same key: the model's content, what the
engine is, and all that changes the bits of keys and values. All of it is compared with its checksums before any
reaches the engine, which finds the blocks by their tokens: a file of another text is no danger.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm import __version__, pack_file
from pyllm.pack_file import BadPackError
from pyllm.private_files import new_file, opened

if TYPE_CHECKING:
    from pyllm import _core
    from pyllm.pack_file import About

VERSION = 1  # of this form
BLOCK = 16  # tokens
_PART = 8 << 20  # bytes that are moved at once


def fingerprint(compute: Mapping[str, Any]) -> str:
    """Of the engine's build and of what it computes with: equal ones compute the same bits."""
    from pyllm import _core

    folder = Path(_core.__file__).parent
    found = (path for path in sorted(folder.glob("*")) if path.suffix in (".so", ".pyd", ".dylib"))
    builds = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    told = json.dumps([VERSION, __version__, builds, dict(compute)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def save(
    engine: _core.Engine,
    tokens: Sequence[int],
    path: Path,
    content: str,
    key: str,
    model: str,
    stop: Callable[[], None],
) -> int:
    """Writes what the engine's cache holds of the beginning of `tokens`; the tokens written. 0: it holds none,
    and there is no file. content, key: load() wants the same. model: its name, for people. OSError."""
    whole = list(tokens[: len(tokens) // BLOCK * BLOCK])
    first = engine.read_kv(whole, 0, _count(engine))
    if not first:
        return 0
    written = 0

    def pieces() -> Iterator[tuple[str, memoryview]]:
        nonlocal written
        data = first
        while data:
            yield "kv", memoryview(data)
            written += len(data) // engine.kv_block_bytes * BLOCK
            data = engine.read_kv(whole, written // BLOCK, _count(engine))
        yield "tokens", memoryview(array("i", whole[:written])).cast("B")

    with new_file(path) as fd:
        pack_file.write(fd, pieces(), content, key, model, stop, sync=False)
    return written


def load(engine: _core.Engine, path: Path, content: str, key: str, vocab: int) -> list[int]:
    """Puts what `path` holds into the engine's cache, as far as there is room; the tokens that are there then.
    BadPackError says why it cannot be used; UntrustedError for what others could have written; OSError."""
    with opened(path) as fd:
        about = pack_file.read(fd)
        if about.content != content:
            raise BadPackError("it is another model's")
        if about.packing != key:
            raise BadPackError("another version of pyllm, or one with other options, computed it")
        pack_file.verify(fd, about)
        tokens = _tokens(fd, about, engine.kv_block_bytes, vocab)
        done = 0
        for name, offset, size in about.weights:
            if name == "kv":
                until = done + size // engine.kv_block_bytes
                done = min(until, engine.write_kv(tokens, done, pack_file.read_at(fd, offset, size)))
                if done < until:
                    break
        pack_file.seal(fd, about)  # used now
        return tokens[: done * BLOCK]


def _count(engine: _core.Engine) -> int:
    return max(1, _PART // engine.kv_block_bytes)


def _tokens(fd: int, about: About, block_bytes: int, vocab: int) -> list[int]:
    """The tokens of a file whose parts fit together."""
    *parts, (last, offset, size) = about.weights or (("", 0, 0),)
    if last != "tokens" or size % (4 * BLOCK):
        raise BadPackError("it does not tell its tokens")
    if any(name != "kv" or count % block_bytes or count > _PART + block_bytes for name, _, count in parts):
        raise BadPackError(f"expected blocks of {block_bytes} bytes")
    if sum(count for _, _, count in parts) // block_bytes * 4 * BLOCK != size:
        raise BadPackError("it has more blocks than tokens, or fewer")
    tokens = array("i")
    tokens.frombytes(pack_file.read_at(fd, offset, size))
    if any(not 0 <= token < vocab for token in tokens):
        raise BadPackError(f"expected tokens from 0 to {vocab - 1}")
    return tokens.tolist()
