"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from pyllm.errors import PyllmError


class UsageError(PyllmError):
    """Options that do not go together or have impossible values: exit code 2."""


def note(text: str) -> None:
    """One message on standard error, with our name in front."""
    sys.stdout.flush()  # what was printed before stays before it on a terminal
    print(f"pyllm: {text}", file=sys.stderr, flush=True)


def show_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


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


def printable(text: str) -> str:
    """Text from a file, safe on a terminal: control characters other than line feed and tab become visible."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    # Joiners and variation selectors belong to text in many scripts and to emoji; direction overrides do not.
    if (
        code >= 0xA0
        and not 0xD800 <= code <= 0xDFFF
        and code not in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
    ):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def visible(stream: TextIO) -> None:
    """What the terminal's encoding cannot show is replaced, never an error."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")


def read_text(text: str) -> str:
    """`text` as typed (invalid UTF-8 repaired), or all of standard input when it is `-`."""
    if text == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Answer:
    """Writes a model's text to standard output as it comes; on a terminal without its control characters."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._last = "\n"

    def write(self, piece: str) -> None:
        if piece:
            sys.stdout.write(printable(piece) if self._terminal else piece)
            sys.stdout.flush()
            self._last = piece[-1]

    def end(self) -> None:
        """What follows starts on a new line."""
        if self._last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._last = "\n"
