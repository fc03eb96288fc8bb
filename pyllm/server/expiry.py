"""How long things are kept, as OpenAI has it: a day for a batch to be done, thirty days for files."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from pyllm.server.errors import bad_request

HOUR = 3600
WINDOW_S = 24 * HOUR  # of a batch
KEPT_S = 30 * 24 * HOUR  # of a file, and of what is told of a batch that has ended


class ExpiresAfter(Struct):
    """`seconds` after a file was made: an hour to thirty days."""

    anchor: Literal["created_at"]
    seconds: int


def seconds_of(after: ExpiresAfter | None, param: str) -> int:
    """How long a file is kept. ApiError when that is no time it can be kept for."""
    if after is None:
        return KEPT_S
    if not HOUR <= after.seconds <= KEPT_S:
        raise bad_request(f"{param}.seconds: expected {HOUR} to {KEPT_S}, got {after.seconds}", param)
    return after.seconds


def of_form(anchor: object, seconds: object) -> ExpiresAfter | None:
    """What a form's expires_after[anchor] and expires_after[seconds] say. ApiError when it makes no sense."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise bad_request("expires_after[anchor]: expected created_at", "expires_after")
    if not isinstance(seconds, str) or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10):
        raise bad_request("expires_after[seconds]: expected a number of seconds", "expires_after")
    return ExpiresAfter("created_at", int(seconds))
