"""A job's input as rows that are ready to run: those that are done are passed over, the others checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pyllm.batch.done import DoneRows
from pyllm.batch.forms import Forms
from pyllm.batch.row import Record, Row, RowError
from pyllm.batch.window import Ready
from pyllm.errors import PyllmError

GROUP = 16  # rows at a time
_GROUP_BYTES = 1 << 20


class Prepare(Protocol):
    """Makes a row ready: parameters checked, prompt in tokens. RowError when it can never run."""

    def __call__(self, row: Row) -> Ready: ...


class Source:
    """Reads ahead. For one thread at a time."""

    def __init__(self, records: Iterable[Record], forms: Forms, done: DoneRows, prepare: Prepare) -> None:
        self._records = iter(records)
        self._forms = forms
        self._done = done
        self._prepare = prepare
        self.skipped = 0  # rows, done before
        self.skipped_bytes = 0
        self.last = 0  # number of the last record

    def next(self) -> list[Ready | Row]:
        """Some rows, in the input's order; those that have an error come as they are. None at the end."""
        group: list[Ready | Row] = []
        size = 0
        while len(group) < GROUP and size < _GROUP_BYTES:
            record = next(self._records, None)
            if record is None:
                break
            size += record.size
            self.last = record.number
            if (row := self._row(record)) is not None:
                group.append(row)
        return group

    def _row(self, record: Record) -> Ready | Row | None:
        row = self._forms.row(record)
        first = record.number if row.custom_id is None else self._done.name(row.custom_id, record.number)
        key = self._done.key(record.number)
        if key is not None:
            if key != record.key:
                raise other_input(record.number)
            self.skipped += 1
            self.skipped_bytes += record.size
            return None
        error = row.error
        if error is None and first != record.number:
            told = f"row {record.number}: custom_id {row.custom_id!r:.80} is that of row {first} already"
            error = RowError("duplicate_custom_id", told)
        if error is None:
            try:
                return self._prepare(row)
            except RowError as refused:
                error = refused
        return Row(record, row.form, row.custom_id, row.url, error=error)


def rows_left(records: Callable[[], Iterator[Record]], done: DoneRows) -> bool:
    """Whether the input has rows that are not done. PyllmError when those that are done belong to other input:
    nothing has been run or written then."""
    seen, last = 0, 0
    for record in records():
        seen, last = seen + 1, record.number
        if last > done.last:
            return True
        if (key := done.key(last)) is not None and key != record.key:
            raise other_input(last)
    if last < done.last:
        raise beyond_the_end(done, last)
    return seen > done.count


def other_input(number: int) -> PyllmError:
    return PyllmError(
        f"the output belongs to other input: row {number} is not the one that it answers; give another output, "
        "or --overwrite to start anew"
    )


def beyond_the_end(done: DoneRows, last: int) -> PyllmError:
    return PyllmError(
        f"the output belongs to other input: it answers row {done.last}, and the input ends at {last}; give "
        "another output, or --overwrite to start anew"
    )
