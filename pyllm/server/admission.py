"""How many answers may be under way: those beyond it are told to come again later, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyllm.server.errors import ApiError


class Place:
    """What one request occupies."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.answers = 0

    def grow(self, answers: int) -> None:
        """Takes room for `answers` in all. ApiError 429 when there is not so much."""
        self._admission.take(answers - self.answers)
        self.answers = answers


class Admission:
    """A bound on answers that run or wait. A request counts as one until its form is known."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._mean_s = 1.0  # how long requests take, recent ones counting more

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Room for one answer, given back at the end."""
        place = Place(self)
        place.grow(1)
        try:
            yield place
        finally:
            self.taken -= place.answers

    def take(self, answers: int) -> None:
        if answers > 0 and self.taken + answers > self.limit:
            raise ApiError(
                429,
                f"the server is busy: {self.taken} of {self.limit} answers are under way or waiting; try again "
                f"in {self.retry_after} s",
                code="server_busy",
                headers={"retry-after": str(self.retry_after)},
            )
        self.taken += answers

    def finished(self, seconds: float) -> None:
        """Notes how long a request took."""
        self._mean_s += (seconds - self._mean_s) / 16

    @property
    def retry_after(self) -> int:
        """Seconds after which there is likely room."""
        return max(1, min(60, round(self._mean_s)))
