"""Reads the records of an input one by one: however long it is, one record is in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import IO, Any

from pyllm.batch.row import Record, RowError, key_of
from pyllm.errors import PyllmError

MAX_RECORD = 16 << 20  # bytes
_BOM = b"\xef\xbb\xbf"


def read_lines(stream: IO[bytes]) -> Iterator[Record]:
    """A record per line; blank ones are none, but they count. A line beyond MAX_RECORD is a RowError."""
    number = 0
    while line := stream.readline(MAX_RECORD + 2):
        number += 1
        size, text = len(line), line.rstrip(b"\r\n")
        if number == 1:
            text = text.removeprefix(_BOM)
        if len(text) > MAX_RECORD:
            while not line.endswith(b"\n") and (line := stream.readline(MAX_RECORD)):
                size += len(line)
            told = f"line {number}: {size} bytes are more than the {MAX_RECORD} that a row may have"
            yield Record(number, RowError("row_too_long", told), key_of(text, str(size).encode()), size)
        elif text.strip():
            yield Record(number, text, key_of(text), size)


def read_csv(stream: IO[bytes], delimiter: str = ",") -> Iterator[Record]:
    """A record per row after the first, which names the columns. PyllmError where the table cannot be read on.

    number: counts records, as one may have several lines.
    """
    counted: Any = _Counted(stream)
    text = io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(MAX_RECORD)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    number, before = 0, 0
    try:
        for values in reader:
            if not any(values):
                continue  # an empty line
            if columns is None:
                columns = _columns(values)
                continue
            number += 1
            size, before = counted.count - before, counted.count
            yield Record(number, _fields(number, columns, values), key_of(*map(_bytes, columns + values)), size)
    except csv.Error as error:
        raise PyllmError(f"CSV, line {reader.line_num}: {error}") from None


def _columns(values: list[str]) -> list[str]:
    names = [value.strip() for value in values]
    for name in names:
        if not name or names.count(name) > 1:
            raise PyllmError(f"CSV: the first row must name every column once, found {name!r:.80}")
    return names


def _fields(number: int, columns: list[str], values: list[str]) -> dict[str, str] | RowError:
    if len(values) != len(columns):
        told = f"row {number}: expected {len(columns)} fields as in the first row, got {len(values)}"
        return RowError("wrong_number_of_fields", told)
    if any("\ud800" <= c <= "\udfff" for value in values for c in value):
        return RowError("invalid_utf8", f"row {number}: expected UTF-8")
    return dict(zip(columns, values, strict=True))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Counted(io.BufferedIOBase):
    """Counts the bytes that are read of `stream`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        data: bytes = getattr(self._stream, "read1", self._stream.read)(size)
        self.count += len(data)
        return data
