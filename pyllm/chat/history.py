"""What was typed before, across sessions. A file that cannot be used is said once and done without."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory

_MOST = 4 << 20  # bytes that are read


class History(FileHistory):
    """The file has prompt-toolkit's form: a comment with the time, then lines that begin with +."""

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        self._path = path
        self._failed: Callable[[str], None] | None = failed
        super().__init__(str(path))

    def load_history_strings(self) -> Iterable[str]:
        found: list[str] = []
        try:
            with open(self._path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST))
                lines: list[str] = []
                for line in file.read().decode("utf-8", "replace").split("\n"):
                    if line.startswith("+"):
                        lines.append(line[1:])
                    elif lines:
                        found.append("\n".join(lines))
                        lines = []
                if lines:
                    found.append("\n".join(lines))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell(error)
        return reversed(found)

    def store_string(self, string: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
            super().store_string(string)
        except (OSError, UnicodeError) as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._failed is not None:
            why = getattr(error, "strerror", None) or error
            self._failed(f"{self._path}: {why}: what you type is not remembered for the next session")
            self._failed = None
