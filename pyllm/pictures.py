"""Pictures of results, drawn by matplotlib, which is no dependency of its own: pip install 'pyllm[plot]'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyllm.errors import PyllmError


def check_picture(path: Path) -> None:
    """PyllmError when a picture cannot be made or kept there; before anything is measured."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise PyllmError("a plot needs matplotlib: pip install matplotlib, or 'pyllm[plot]'") from error
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise PyllmError(f"{path}: expected a file name that ends in one of .{', .'.join(sorted(known))}")
    if not path.absolute().parent.is_dir():
        raise PyllmError(f"{path}: there is no folder {path.absolute().parent}")


def save_picture(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure. PyllmError when the disk will not have it."""
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}") from error
