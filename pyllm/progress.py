"""How far a long job is, on standard error: a bar on a terminal, otherwise one line per step."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What a long job reports to. Amounts are bytes, or steps where it says so; a total of 0 means unknown."""

    def start(self, title: str, total: int) -> None: ...
    def update(self, done: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class LineProgress:
    """One line when a step starts: for logs and pipes. counts: amounts are no bytes."""

    def __init__(self, counts: bool = False) -> None:
        self._counts = counts

    def start(self, title: str, total: int) -> None:
        self.note(f"{title} ({megabytes(total)})" if total and not self._counts else title)

    def update(self, done: int) -> None:
        pass

    def note(self, text: str) -> None:
        print(f"pyllm: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class BarProgress:
    """A bar that moves, with rate and time left. counts: amounts are no bytes."""

    def __init__(self, counts: bool = False) -> None:
        self._counts = counts
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, title: str, total: int) -> None:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as RichProgress

            amounts = (MofNCompleteColumn(),) if self._counts else (DownloadColumn(), TransferSpeedColumn())
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                *amounts,
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._rich.start()
        if self._task is not None:
            self._rich.remove_task(self._task)
        self._task = self._rich.add_task(title, total=total or None)

    def update(self, done: int) -> None:
        if self._rich and self._task is not None:
            self._rich.update(self._task, completed=done)

    def note(self, text: str) -> None:
        if self._rich:
            self._rich.console.print(f"pyllm: {text}", markup=False, highlight=False)
        else:
            print(f"pyllm: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._rich:
            self._rich.stop()
            self._rich = self._task = None


def default_progress(counts: bool = False) -> Progress:
    """A bar when standard error is a terminal, else lines. counts: amounts are no bytes."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return BarProgress(counts) if terminal else LineProgress(counts)


def megabytes(count: int) -> str:
    """123456789 -> '123 MB': bytes in decimal units, three digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
