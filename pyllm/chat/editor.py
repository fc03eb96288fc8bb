"""A text in the person's editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from pyllm.errors import PyllmError

_USUAL = ("sensible-editor", "editor", "nano", "vim", "vi")


def edit(text: str) -> str:
    """`text` as the person leaves it. PyllmError when the editor fails; then nothing has changed."""
    command = _command()
    folder = tempfile.mkdtemp(prefix="pyllm-")
    path = Path(folder) / "message.md"
    try:
        path.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*command, str(path)], check=False).returncode
        except OSError as error:
            raise PyllmError(
                f"$EDITOR {command[0]}: {error.strerror or error}; the text was not changed"
            ) from None
        if code:
            raise PyllmError(f"$EDITOR {command[0]} ended with code {code}; the text was not changed")
        try:
            return path.read_bytes().decode("utf-8", "replace").rstrip("\n")
        except OSError as error:
            raise PyllmError(f"$EDITOR {command[0]} left no text: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if value := os.environ.get(variable, "").strip():
            try:
                return shlex.split(value)
            except ValueError as error:
                raise PyllmError(f"{variable}: {error}: {value[:80]!r}") from None
    for program in _USUAL:
        if found := shutil.which(program):
            return [found]
    raise PyllmError("no editor was found: set EDITOR")
