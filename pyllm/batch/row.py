"""A row of a job, and what its answer's row says of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

_ID = re.compile(rb'\{"id":"batch_req_([0-9a-f]{8})([0-9a-f]{16})_([1-9][0-9]*)"[,}]')


class RowError(Exception):
    """Why a row has no answer: an error row is written in its place, and the job goes on.

    code: a word for programs. status, document: of the HTTP answer that the same request would get.
    """

    def __init__(
        self, code: str, message: str, status: int = 400, document: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.document = document


@dataclass(frozen=True)
class Record:
    """What the input says, not yet understood. number: of its line (of its record in CSV), from 1.

    data: the line's bytes or the fields of CSV; a RowError where it cannot even be read. key: 16 hexadecimal
    digits that tell it from other content. size: bytes of the input.
    """

    number: int
    data: bytes | dict[str, str] | RowError
    key: str
    size: int


@dataclass(frozen=True)
class Row:
    """A record understood: which request it makes. form: how its answer is written, as OpenAI's batches do or
    plain. error: why it makes none."""

    record: Record
    form: Literal["openai", "plain"] = "openai"
    custom_id: str | None = None
    url: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    error: RowError | None = None

    @property
    def number(self) -> int:
        return self.record.number


def key_of(*parts: bytes, digits: int = 16) -> str:
    """Hexadecimal digits that stand for `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:digits]


def answer_id(job: str, record: Record) -> str:
    """Names a row's answer by job and content: an output tells by itself which rows of which input it holds."""
    return f"batch_req_{job}{record.key}_{record.number}"


def read_answer_id(line: bytes) -> tuple[str, str, int] | None:
    """(job, key, row number) of a line of an output; None when it is no whole row of ours."""
    match = _ID.match(line)
    if match is None or not line.endswith(b"}") or b"\0" in line:
        return None
    return match[1].decode(), match[2].decode(), int(match[3])


def row_seed(job_seed: int, record: Record) -> int:
    """A row's own seed where it gives none: the same in every run, another for every row."""
    return int(key_of(str(job_seed).encode(), record.key.encode(), str(record.number).encode()), 16) >> 1
