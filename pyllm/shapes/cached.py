"""Shapes by name, such as llama-1b:q4_k_m, as files that are written once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from pyllm.errors import PyllmError
from pyllm.models import cache_errors, home
from pyllm.progress import megabytes
from pyllm.shapes.shape import PRESETS, Shape
from pyllm.shapes.types import file_bytes, tensor_types
from pyllm.shapes.write import write_shape

FORMAT = 1  # of what is written; a new number makes new files


def parse_shape(text: str) -> tuple[str, Shape, str]:
    """'llama-1b:q4_k_m' -> (its full name, sizes, type); without a type: q4_k_m. PyllmError when unknown."""
    name, _, quant = text.lower().partition(":")
    quant = quant or "q4_k_m"
    if name not in PRESETS:
        raise PyllmError(f"unknown shape {text!r}: expected NAME:TYPE with NAME one of {', '.join(PRESETS)}")
    tensor_types(PRESETS[name], quant)
    return f"{name}:{quant}", PRESETS[name], quant


def shape_file(text: str, note: Callable[[str], None] = lambda _: None) -> Path:
    """The file of a shape by name, in the folder that pyllm keeps; written when it is not there yet.

    note: is told when it has to be written. PyllmError for unknown shapes, and when there is no room.
    """
    name, shape, quant = parse_shape(text)
    key = hashlib.sha256(f"{FORMAT} {shape} {quant}".encode()).hexdigest()[:12]
    stem = name.replace(":", "-")
    folder = home() / "shapes"
    path = folder / f"{stem}.{key}.gguf"
    with cache_errors(folder):
        if path.is_file():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stem}.lock"):
            if path.is_file():  # another process has just written it
                return path
            for old in folder.glob(f"{stem}.*.gguf*"):
                old.unlink(missing_ok=True)
            needed, free = file_bytes(shape, quant), shutil.disk_usage(folder).free
            if needed > free:
                raise PyllmError(
                    f"{folder}: the random weights of {name} need {needed:,} bytes, {free:,} are free. "
                    "PYLLM_HOME can name another folder"
                )
            note(f"writing random weights: {name} ({megabytes(needed)})")
            part = folder / f"{path.name}.part"
            try:
                write_shape(part, shape, quant)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    return path
