"""Text to the clipboard: by a program of the desktop, else by the terminal (OSC 52, also over ssh)."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys

from pyllm.errors import PyllmError

_PROGRAMS = (
    ("pbcopy", "", ["pbcopy"]),
    ("wl-copy", "WAYLAND_DISPLAY", ["wl-copy"]),
    ("xclip", "DISPLAY", ["xclip", "-selection", "clipboard"]),
    ("xsel", "DISPLAY", ["xsel", "--clipboard", "--input"]),
    ("clip.exe", "", ["clip.exe"]),
)
_MOST = 74_000  # bytes that terminals take


def copy_text(text: str) -> str:
    """Copies it; says how. PyllmError when nothing takes it."""
    data = text.encode("utf-8", "replace")
    for program, wants, command in _PROGRAMS:
        if (not wants or os.environ.get(wants)) and shutil.which(program):
            try:
                quiet = subprocess.DEVNULL  # some stay in the background, holding what they inherit
                subprocess.run(command, input=data, timeout=5, check=True, stdout=quiet, stderr=quiet)
            except (OSError, subprocess.SubprocessError):
                continue
            return "copied to the clipboard"
    if not sys.stdout.isatty():
        raise PyllmError("there is no clipboard here")
    if len(data) > _MOST:
        raise PyllmError(
            f"{len(data)} bytes are more than a terminal's clipboard takes; /export FILE writes it"
        )
    sys.stdout.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    sys.stdout.flush()
    return "handed to the terminal's clipboard (OSC 52)"
