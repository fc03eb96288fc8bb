"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from pyllm.errors import PyllmError
from pyllm.terminal import printable


class UsageError(PyllmError):
    """Options that do not go together or have impossible values: exit code 2."""


def note(text: str) -> None:
    """One message on standard error, with our name in front."""
    sys.stdout.flush()  # what was printed before stays before it on a terminal
    print(f"pyllm: {text}", file=sys.stderr, flush=True)


def show_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Call what this gives with what is being done now: a terminal shows it on one line."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as line:
        yield lambda text: line.update(escape(text))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Aligned rows; the columns named in `right` are flush right. Never cut, whatever the terminal's width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(printable(str(cell))) for cell in row))
    Console(width=100_000, highlight=False).print(grid)


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """name: value lines, values aligned."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:<{width}}  {printable(str(value))}")


def visible(stream: TextIO) -> None:
    """What the terminal's encoding cannot show is replaced, never an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")


def read_text(text: str, source: str) -> str:
    """`text` as typed for the option `source`, or all of standard input when it is `-`."""
    if text == "-":
        return decoded(sys.stdin.buffer.read(), "standard input")
    return decoded(text.encode("utf-8", "surrogateescape"), source)


def decoded(data: bytes, source: str, start: int = 0) -> str:
    """The text in `data`, which begins at byte `start` of `source`. What is not UTF-8 becomes U+FFFD, and a
    note says so."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        text, place = data.decode("utf-8", "replace"), start + error.start
        more = text.count("\ufffd") - data.count("\ufffd".encode()) - 1
        others = f", like {more:,} more in it" if more else ""
        note(
            f"{source} is not UTF-8: byte 0x{data[error.start]:02x} at offset {place:,} (from 0) was read as "
            f"U+FFFD{others}"
        )
        return text
