"""Which machine it was: enough to tell processors apart whose name says little."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
# What the speed of integer products depends on.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")


def machine() -> dict[str, Any]:
    """{"cpu", "family", "model", "stepping", "flags", "cores", "system", "python"}; None: not told."""
    first: dict[str, str] = {}
    if CPUINFO.exists():
        for line in CPUINFO.read_text(errors="replace").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            first[name.strip()] = value.strip()
    has = set((first.get("flags") or first.get("Features") or "").split())
    return {
        "cpu": first.get("model name") or platform.processor() or platform.machine(),
        "family": _number(first.get("cpu family")),
        "model": _number(first.get("model")),
        "stepping": _number(first.get("stepping")),
        "flags": [flag for flag in FLAGS if flag in has],
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def describe(about: dict[str, Any]) -> str:
    """'AMD EPYC (family 26, model 2, stepping 1)'"""
    parts = [f"{key} {about[key]}" for key in ("family", "model", "stepping") if about[key] is not None]
    return f"{about['cpu']} ({', '.join(parts)})" if parts else str(about["cpu"])


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
