"""A model's packed weights: found in the folder of packs.py, or packed at load and then kept there.

Keeping is a thread's work beside the first answers. It is nobody's problem when it fails: the model runs from
memory, and one line on standard error says why the next start will take as long: before the first answer, or at
the end of the process.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm import _core, packs
from pyllm.pack_file import BadPackError
from pyllm.private_files import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TROUBLE = (OSError, BadPackError, UntrustedError)


class _StopError(Exception):
    pass


class Packing:
    """Packed weights of `file`: `weights` is for _core.Model, keep() for when it has been loaded."""

    def __init__(self, file: _core.GgufFile) -> None:
        self.weights = _core.PackedWeights()
        self.mapped_bytes = self.packed_bytes = 0  # once loaded: from the folder, and of the model's file
        self._file = file
        self.found = False  # packed weights of this model, in the folder
        self._content: str | None = None
        self._process = os.getpid()
        self._stop = threading.Event()
        self._written: threading.Event | None = None  # joining a thread does not survive Ctrl-C everywhere
        self._kept = False
        self._late: Exception | None = None  # trouble while writing: told when no answer is on its way
        try:
            self._kept = file.file_bytes >= packs.SMALLEST and packs.limit() > 0
            if self._kept:
                packs.prepare()
                self._find()
        except BadPackError as error:
            _say(f"{error}: packing again")
        except _TROUBLE as error:
            self._give_up(error)

    def _find(self) -> None:
        file = self._file
        self._content = packs.known_content(file.identities)
        if self._content is None and packs.any_of_size(file.file_bytes):
            self._content = packs.content_of(file.paths, file.identities)
            packs.remember(file.identities, self._content)
        if self._content is not None:
            path = packs.pack_path(self._content, file.file_bytes)
            kept = packs.open_pack(path, self._content)
            self.weights, self.found = kept or self.weights, kept is not None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the block runs, a terminal tells how much has been packed."""
        if sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._show, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _show(self, over: threading.Event) -> None:
        total = max(1, sum(tensor.n_bytes for tensor in self._file.tensors))
        shown = False
        while not over.wait(0.2):
            if packed := self.weights.packed:
                shown = True
                print(
                    f"\rpyllm: packing weights {100 * packed // total} %", end="", file=sys.stderr, flush=True
                )
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def keep(self, whole: bool = True) -> None:
        """Writes what a load has packed to the folder, in the background. The engine owns the weights now.

        whole: these are all weights of the model; others are not kept.
        """
        weights, self.weights = self.weights, _core.PackedWeights()
        self.mapped_bytes, self.packed_bytes = weights.mapped_bytes, weights.packed
        if whole and self._kept and weights.packed and weights.packed + weights.mapped_bytes >= packs.SMALLEST:
            pieces = weights.pieces
            self._written = threading.Event()
            atexit.register(self._at_exit)
            threading.Thread(target=self._write, args=(pieces,), name="pyllm-pack", daemon=True).start()

    def finish(self) -> None:
        """Waits until the weights are kept, and tells why if they are not. Ctrl-C ends it."""
        if self._written is None or self._process != os.getpid():
            return
        try:
            if not self._written.wait(0.5):
                if sys.stderr is not None and sys.stderr.isatty():
                    _say("keeping the packed weights for the next start; Ctrl-C to leave now")
                self._written.wait()
        except KeyboardInterrupt:
            self.cancel()
            self._written.wait(5)
            raise
        if self._late is not None:
            self._give_up(self._late)
            self._late = None

    def _at_exit(self) -> None:
        with suppress(KeyboardInterrupt):
            self.finish()

    def cancel(self) -> None:
        """Ends loading and keeping soon; nothing is left behind."""
        self.weights.cancel()
        self._stop.set()

    def _write(self, pieces: list[_core.PackedPiece]) -> None:
        file = self._file
        try:
            content = self._content or packs.content_of(file.paths, file.identities, threads=1)
            path = packs.pack_path(content, file.file_bytes)
            packs.keep(path, pieces, content, Path(file.path).name, self._check)
            packs.remember(file.identities, content)
            atexit.unregister(self._at_exit)
        except _StopError:
            atexit.unregister(self._at_exit)
        except _TROUBLE as error:
            self._late = error
        finally:
            if self._written is not None:
                self._written.set()

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StopError

    def _give_up(self, error: Exception) -> None:
        self._kept = False
        text = str(error)
        if isinstance(error, OSError):
            text = f"{error.filename or packs.folder()}: {error.strerror or error}"
        _say(f"packed weights are not kept for the next start: {text}")


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"pyllm: {text}", file=sys.stderr, flush=True)
