"""Which rows an output already has, and which names were used: on disk, whatever their number."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

from pyllm.errors import PyllmError


class DoneRows:
    """A private database that vanishes with the process; what it holds is read from the output at each start.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._do("PRAGMA cache_size = -8192")  # KiB; beyond it, a temporary file
        self._do("CREATE TABLE done (number INTEGER PRIMARY KEY, key TEXT)")
        self._do("CREATE TABLE names (name BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self._do("BEGIN")
        self.count = 0
        self.failed = 0  # of them, where errors have a file of their own
        self.last = 0  # the largest number

    def add(self, rows: Iterable[tuple[int, str]]) -> bool:
        """Notes (number, key) of rows; False when one of them is there already."""
        for number, key in rows:
            if not self._do("INSERT OR IGNORE INTO done VALUES (?, ?)", number, key).rowcount:
                return False
            self.count += 1
            self.last = max(self.last, number)
        return True

    def key(self, number: int) -> str | None:
        """The key of a row that is done."""
        if number > self.last:
            return None
        found = self._do("SELECT key FROM done WHERE number = ?", number).fetchone()
        return str(found[0]) if found else None

    def name(self, name: str, number: int) -> int:
        """Takes a row's name; the number of the row that had it first, which may be the row itself."""
        key = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16]
        if self._do("INSERT OR IGNORE INTO names VALUES (?, ?)", key, number).rowcount:
            return number
        return int(self._do("SELECT number FROM names WHERE name = ?", key).fetchone()[0])

    def _do(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise PyllmError(
                f"the list of finished rows: {error}; it is kept in the folder for temporary files (TMPDIR)"
            ) from error
