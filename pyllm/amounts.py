"""Amounts of memory as people write them."""

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
