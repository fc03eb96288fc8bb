"""Which of the rows that were read ahead runs next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllm.batch.row import Row

BLOCK = 16  # tokens that prompts share at a time, as the KV cache keeps them


@dataclass
class Ready:
    """A row whose prompt is in tokens. work: what answers it. length: tokens of prompt and answer at most."""

    row: Row
    work: Any
    tokens: Sequence[int]
    length: int
    answers: int = 1
    passed: int = 0  # rows that came later and went first
    blocks: list[int] = field(default_factory=list)  # [block], a hash of all tokens up to its end

    def __post_init__(self) -> None:
        hashed = 0
        for end in range(BLOCK, len(self.tokens) + 1, BLOCK):
            hashed = hash((hashed, *self.tokens[end - BLOCK : end]))
            self.blocks.append(hashed)


class Window:
    """Rows that are ready. Those that begin like the row before go next, so that they find its keys and values
    in the cache; otherwise a long and a short one in turn, so that prompts and answers of all lengths run
    together. Near the end of the input the longest goes first: no row should then be left to run alone.
    """

    def __init__(self, rows: int = 256, size: int = 32 << 20) -> None:
        """rows, size: it is full with so many rows, or bytes of the input."""
        self._rows = rows
        self._size = size
        self._ready: list[Ready] = []
        self._used = 0
        self._last: list[int] = []
        self._long = False
        self.ended = False  # no row will come any more

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def full(self) -> bool:
        return len(self._ready) >= self._rows or self._used >= self._size

    def add(self, ready: Ready) -> None:
        self._ready.append(ready)
        self._used += ready.row.record.size

    def take(self) -> Ready | None:
        """Removes the next row; none when there is none."""
        if not self._ready:
            return None
        place = self._overdue()
        if place is None:
            place = self._choose()
        taken = self._ready.pop(place)
        for ready in self._ready[:place]:
            ready.passed += 1
        self._used -= taken.row.record.size
        self._last = taken.blocks
        return taken

    def _overdue(self) -> int | None:
        """The oldest row, once it has let enough others go first."""
        return 0 if self._ready[0].passed > 2 * self._rows else None

    def _choose(self) -> int:
        shared = [_shared(ready.blocks, self._last) for ready in self._ready]
        most = max(shared)
        near = [place for place, blocks in enumerate(shared) if blocks == most]
        self._long = not self._long or self.ended
        pick = max if self._long else min
        return pick(near, key=lambda place: (self._ready[place].length, -place))


def _shared(blocks: list[int], other: list[int]) -> int:
    """Blocks that both begin with: a hash that is the same stands for all before it."""
    low, high = 0, min(len(blocks), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if blocks[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
