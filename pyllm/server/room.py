"""How much memory a model is planned to take, before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.server.served import Source

BLOCK = 16  # tokens


def planned_kv(source: Source, budget: int, models: int, sequences: int) -> int:
    """Bytes for keys and values when `models` share `budget` bytes: enough for the whole context of all
    `sequences`, but no more than this model's part of a quarter of the memory, unless one context needs more.

    0 where nothing can be planned. PyllmError when the model does not fit even alone.
    """
    if source.config is None or budget <= 0:
        return 0
    token = source.config.kv_bytes_per_token
    left = budget - source.size
    wanted = source.kv_bytes
    if not wanted:
        one = source.context * token
        quarter = budget // (4 * models)
        wanted = min(one * sequences, max(quarter, min(one, 3 * quarter)), left)
    if wanted > left or wanted < BLOCK * token:
        needed = source.size + (source.kv_bytes or BLOCK * token)
        raise PyllmError(f"it needs {in_mb(needed)} of memory, {in_mb(budget)} are available")
    return wanted


def in_mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
