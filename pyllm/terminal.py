"""A model's text on a terminal: it shows, it never controls."""

from __future__ import annotations

import sys


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


def cut_short(tokens: int, detail: str) -> str:
    """Why an answer of so many tokens ended by length; `detail`: Completion.finish_detail."""
    why = "--max-tokens reached" if detail in ("", "max_tokens") else "the context is full"
    return f"the answer was cut after {tokens} token{'' if tokens == 1 else 's'}: {why}"


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
