"""Tables: columns as wide as they need, narrower and wrapped where the terminal is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

_GAP = 2
_LEAST = 4  # columns of a column


def table(cells: Sequence[Sequence[Text]], aligns: Sequence[str], width: int) -> Iterator[Text]:
    """cells: rows of them, the header first. aligns: "left", "right", "center" or "" per column."""
    from pyllm.chat.markdown import wrapped

    count = len(aligns)
    wanted = [max([cell_len(row[i].plain) for row in cells if i < len(row)] or [0]) for i in range(count)]
    widths = _fit(wanted, width - 1 - _GAP * (count - 1))
    for number, row in enumerate(cells):
        columns = [wrapped(row[i], widths[i] + 1) if i < len(row) else [] for i in range(count)]
        for line in range(max(map(len, columns), default=0)):
            parts = [column[line] if line < len(column) else Text() for column in columns]
            yield _row(parts, widths, aligns, bold=number == 0)
        if number == 0:
            yield Text((" " * _GAP).join("─" * w for w in widths), "dim")


def _fit(wanted: list[int], room: int) -> list[int]:
    """Takes from the widest until all have room, or none can give any more."""
    widths = [min(max(1, w), max(room, _LEAST)) for w in wanted]
    while sum(widths) > room and max(widths) > _LEAST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _row(parts: Sequence[Text], widths: Sequence[int], aligns: Sequence[str], bold: bool) -> Text:
    text = Text(style="bold" if bold else "")
    for i, (part, width, align) in enumerate(zip(parts, widths, aligns, strict=True)):
        space = max(0, width - cell_len(part.plain))
        before = space if align == "right" else space // 2 if align == "center" else 0
        text.append(" " * before)
        text.append_text(part)
        if i < len(parts) - 1:
            text.append(" " * (space - before + _GAP))
    text.rstrip()
    return text
