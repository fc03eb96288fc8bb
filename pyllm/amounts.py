"""Amounts of memory and time as people write them."""

from __future__ import annotations

import re


def parse_bytes(text: str) -> int:
    """'2GB', '512 MiB', '1e9' -> bytes. ValueError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match:
        power = " kmgt".index(match[2].lower() or " ")
        try:
            return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
        except (ValueError, OverflowError):  # 1.2.3, 1e999
            pass
    raise ValueError(f"{text!r}: expected an amount of memory such as 2GB or 512MiB")


def parse_seconds(text: str) -> float:
    """'90', '1.5h', '5m', '30 s' -> seconds. ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smhd]?)\s*", text, re.IGNORECASE)
    if match:
        seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2].lower()]
        if seconds <= 366 * 86400:
            return seconds
    raise ValueError(f"{text!r}: expected a time such as 30s, 5m or 1h, at most a year")
