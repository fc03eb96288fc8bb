"""Conversations that can be gone on with by the id of an answer: the last ones, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True)
class Kept:
    """An answer with the messages that led to it."""

    caller: str
    messages: bytes  # JSON: a tenth of the memory that the values take
    answer: bytes

    @property
    def size(self) -> int:
        return len(self.messages) + len(self.answer)


class Memory:
    """By id, at most `count` of them and `size` bytes; those used longest ago go first."""

    def __init__(self, count: int = 1000, size: int = 64 << 20) -> None:
        self._count = count
        self._size = size
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._used = 0

    def keep(self, id: str, caller: str, messages: list[dict[str, Any]], answer: Any) -> None:
        kept = Kept(caller, msgspec.json.encode(messages), msgspec.json.encode(answer))
        self._kept[id] = kept
        self._used += kept.size
        while len(self._kept) > self._count or self._used > self._size:
            self._used -= self._kept.popitem(last=False)[1].size

    def find(self, id: str, caller: str) -> Kept | None:
        """What `caller` has kept under `id`; another's is not there."""
        kept = self._kept.get(id)
        if kept is None or kept.caller != caller:
            return None
        self._kept.move_to_end(id)
        return kept

    def drop(self, id: str, caller: str) -> bool:
        """Whether there was something to drop."""
        if self.find(id, caller) is None:
            return False
        self._used -= self._kept.pop(id).size
        return True
