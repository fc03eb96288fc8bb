"""How far a job is, on standard error: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from pyllm.batch.job import Counts

LINE_S = 30.0  # between two lines


class BatchProgress(Protocol):
    """What a job reports to."""

    def update(self, counts: Counts) -> None: ...
    def close(self) -> None: ...


def batch_progress(total: int) -> BatchProgress:
    """total: bytes of the input, 0 when nobody knows."""
    return BatchBar(total) if sys.stderr is not None and sys.stderr.isatty() else BatchLines(total)


def share(counts: Counts, total: int) -> float | None:
    """How much of the input is done, 0 to 1; none when its end is not known."""
    return min(1.0, (counts.size + counts.skipped_size) / total) if total else None


def seconds_left(counts: Counts, total: int) -> float | None:
    """At the pace so far, in bytes of the input; none while too few have finished to tell."""
    left = total - counts.size - counts.skipped_size
    early = not counts.size or counts.rows < counts.running  # the short ones finish first
    return counts.seconds * left / counts.size if total and left >= 0 and not early else None


def described(counts: Counts) -> str:
    """'1,200 rows, 3 failed, 64 running, 812 tokens/s'"""
    parts = [f"{counts.rows + counts.skipped:,} rows"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.running:
        parts.append(f"{counts.running:,} running")
    if counts.computed and not counts.rows:  # nothing has finished yet: show that it works
        parts.append(f"{counts.computed:,} tokens computed")
    if counts.completion_tokens:
        parts.append(f"{counts.tokens_per_second:,.0f} tokens/s")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class BatchLines:
    """For logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._next = time.monotonic() + LINE_S

    def update(self, counts: Counts) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_S
        done, left = share(counts, self._total), seconds_left(counts, self._total)
        parts = [described(counts)]
        if done is not None:
            parts.append(f"{done:.0%} done")
        if left is not None:
            parts.append(f"{duration(left)} left")
        print(f"pyllm: {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class BatchBar:
    """A bar that moves."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def update(self, counts: Counts) -> None:
        left = seconds_left(counts, self._total)
        text = described(counts) + (f", {duration(left)} left" if left is not None else "")
        if self._rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress
            from rich.table import Column

            self._rich = RichProgress(
                BarColumn(bar_width=20),
                TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
                TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._rich.add_task("", total=1.0 if self._total else None)
            self._rich.start()
        if self._task is not None:
            done = share(counts, self._total)
            self._rich.update(self._task, completed=done or 0.0, description=text)

    def close(self) -> None:
        if self._rich is not None:
            self._rich.stop()
