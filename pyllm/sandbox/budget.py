"""What one rendering of a template may use: steps, characters of text, items of a list, bits of a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAX_TEXT = 16 * 1024 * 1024  # characters of any one text, and of the output, beyond what came in
MAX_ITEMS = 100_000  # of a range, and of a list that an operator makes
MAX_DEPTH = 100  # macros within macros
MAX_BITS = 4096  # of an integer
STEPS = 1_000_000
TEXT_PER_STEP = 64  # characters that are copied or compared in the time of one step


class BudgetError(Exception):
    """The template wants more than it may use."""


class Budget:
    """What one rendering may still use. `given` characters came in as values: moving those about is free."""

    def __init__(self, given: int = 0) -> None:
        self.left = STEPS + given
        self.most_text = MAX_TEXT + 4 * given
        self.depth = 0

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise BudgetError("the chat template runs too long (does it loop without end?)")

    def text(self, length: int) -> None:
        """Pays for a text that is about to be made."""
        if length > self.most_text:
            raise BudgetError(f"the chat template makes a text of more than {self.most_text} characters")
        self.spend(1 + length // TEXT_PER_STEP)

    def items(self, count: int) -> None:
        """Pays for a list that is about to be made."""
        if count > MAX_ITEMS:
            raise BudgetError(f"the chat template makes a list of more than {MAX_ITEMS} items")
        self.spend(1 + count)

    def tree(self, value: Any) -> None:
        """Pays for everything inside a value: a few nested lists can hold a million others."""
        stack = [value]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self.spend(1 + len(value) // TEXT_PER_STEP)
                continue
            self.spend()
            if isinstance(value, Mapping):
                self.spend(len(value))
                stack.extend(value)
                stack.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                self.spend(len(value))
                stack.extend(value)

    def replaced(self, text: str, old: str, new: str) -> None:
        """Pays for text.replace(old, new)."""
        found = text.count(old) if old else len(text) + 1
        self.text(len(text) + found * len(new))
        self.spend(found // 4)

    def work(self, value: Any) -> None:
        """Pays for looking at every item of a value, not into them."""
        if isinstance(value, str):
            self.spend(1 + len(value) // TEXT_PER_STEP)
        elif isinstance(value, list | tuple | Mapping | set):
            self.spend(1 + len(value))
        else:
            self.spend()


class Counted:
    """An iterable that pays for each item."""

    def __init__(self, items: Iterable[Any], budget: Budget, weight: int) -> None:
        self._items, self._budget, self._weight = items, budget, weight

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(self._weight)
            yield item

    def __len__(self) -> int:
        length = len(self._items)  # type: ignore[arg-type]  # TypeError is the answer where there is none
        self._budget.spend()
        return length


class CountedStream:
    """As Counted, for what has no length."""

    def __init__(self, items: Iterator[Any], budget: Budget) -> None:
        self._items, self._budget = items, budget

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._budget.spend()
        return next(self._items)

    def __repr__(self) -> str:
        return "<generator>"


def bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def check_bits(count: int) -> None:
    if count > MAX_BITS:
        raise BudgetError("the chat template computes an integer of more than a thousand digits")
