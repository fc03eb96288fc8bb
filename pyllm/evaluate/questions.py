"""Questions from JSONL files, each row checked before anything is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from pyllm.errors import PyllmError

MAX_CHOICES = 1000
MAX_TOKENS = 256  # of an answer, where the row does not say
MATCHES: tuple[Match, ...] = ("text", "number")

Match: TypeAlias = Literal["text", "number"]
Row: TypeAlias = "dict[str, Any]"


class _RowError(ValueError):
    pass


@dataclass(frozen=True)
class Choice:
    """Which of the choices continues the prompt best? right: its index."""

    line: int
    prompt: str
    choices: tuple[str, ...]
    right: int
    delimiter: str

    @property
    def example(self) -> str:
        """With its answer, as it stands before other questions."""
        return self.prompt + self.delimiter + self.choices[self.right]


@dataclass(frozen=True)
class Open:
    """The model writes the answer, which must be one of `right`."""

    line: int
    prompt: str
    right: tuple[str, ...]
    match: Match
    stop: tuple[str, ...]
    max_tokens: int
    target: str

    @property
    def example(self) -> str:
        return self.prompt + " " + self.target


Question: TypeAlias = "Choice | Open"


@dataclass(frozen=True)
class Task:
    """Questions of one kind. shots: worked examples, which stand before each question and are not asked."""

    name: str
    questions: tuple[Question, ...]
    shots: int = 0
    preamble: str = ""

    @property
    def choice(self) -> bool:
        return isinstance(self.questions[0], Choice)


def read_task(name: str, path: Path, shots: int, limit: int, change: Callable[[Row], Row] = dict) -> Task:
    """The questions in a file; the first `shots` rows are examples. limit: of questions, 0 for all. change:
    makes a row of this form (see `pyllm eval --help`) of one of another form.

    PyllmError names the line that is wrong, or says that there are too few.
    """
    found: list[Question] = []
    try:
        with open(path, "rb") as stream:
            for question in _questions(stream, path, change):
                found.append(question)
                if limit and len(found) == shots + limit:
                    break
    except OSError as error:
        raise PyllmError(f"{path}: {error.strerror or error}") from error
    if len(found) <= shots:
        raise PyllmError(f"{path}: {len(found)} questions; expected at least {shots + 1}, {shots} for --shots")
    preamble = "".join(question.example + "\n\n" for question in found[:shots])
    return Task(name, tuple(found[shots:]), shots, preamble)


def _questions(stream: IO[bytes], path: Path, change: Callable[[Row], Row]) -> Iterator[Question]:
    from pyllm.batch.reading import read_lines
    from pyllm.batch.row import RowError

    kind: type | None = None
    for record in read_lines(stream):
        try:
            if isinstance(record.data, RowError):
                raise _RowError(str(record.data).partition(": ")[2])
            question = _question(record.number, change(_row(record.data)))
            kind = kind or type(question)
            if type(question) is not kind:
                raise _RowError("expected all rows of a file with choices, or all without")
        except _RowError as error:
            raise PyllmError(f"{path}, line {record.number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:  # of `change`
            raise PyllmError(f"{path}, line {record.number}: not a row of this set ({error!r:.100})") from None
        yield question


def _row(text: Any) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _RowError(f"not JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise _RowError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _question(line: int, row: Row) -> Question:
    prompt = _text(row, "prompt", "", empty="choices" in row)
    if "choices" in row:
        choices = row["choices"]
        if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_CHOICES:
            raise _RowError(f"choices: expected 2 to {MAX_CHOICES} texts")
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise _RowError("choices: expected texts of at least one character")
        right = row.get("answer")
        if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
            raise _RowError(
                f"answer: expected the right choice's place, 0 to {len(choices) - 1}, {_found(right)}"
            )
        delimiter = _text(row, "delimiter", " " if prompt else "", empty=True)
        return Choice(line, prompt, tuple(choices), right, delimiter)
    answers = _texts(row, "answer")
    if not answers:
        raise _RowError("answer: expected a text or several; a row without choices is answered in words")
    match = row.get("match", "text")
    if match not in MATCHES:
        raise _RowError(f"match: expected {' or '.join(MATCHES)}, {_found(match)}")
    if match == "number" and (wrong := [a for a in answers if last_number(a) is None]):
        raise _RowError(f"answer: expected a number, {_found(wrong[0])}")
    most = row.get("max_tokens", MAX_TOKENS)
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most < 1 << 20:
        raise _RowError(f"max_tokens: expected a number from 1, {_found(most)}")
    stop = _texts(row, "stop") if "stop" in row else ("\n",)
    return Open(line, prompt, answers, match, stop, most, _text(row, "target", answers[0]))


def _text(row: Row, key: str, default: str, empty: bool = False) -> str:
    value = row.get(key, default)
    if not isinstance(value, str) or not (value or empty):
        raise _RowError(f"{key}: expected a text, {_found(row.get(key))}")
    return value


def _texts(row: Row, key: str) -> tuple[str, ...]:
    value = row.get(key)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _RowError(f"{key}: expected a text or a list of them, {_found(value)}")
    return tuple(texts)


def _found(value: object) -> str:
    return "found none" if value is None else f"found {value!r:.60}"


def last_number(text: str) -> str | None:
    """The number behind the last ####, as worked answers mark the result, else the last number in the text;
    without separators of thousands."""
    number = r"-?\d[\d,]*(?:\.\d+)?"
    found = re.findall(rf"####\s*\$?({number})", text) or re.findall(number, text)
    return found[-1].replace(",", "") if found else None
