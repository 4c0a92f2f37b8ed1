"""Whether the open database still is where its path says.

A file that was deleted takes every write and syncs it, and all of it is gone when we end. So before anyone is told
that something is kept, the names are looked up again: the database's and its log's.
"""

from __future__ import annotations

import os
from pathlib import Path

from mailfarm.errors import DatabaseUnavailable


class Place:
    """The names of a database that has just been opened, and which files they were."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._log = f"{self._path}-wal"
        self._database_file = _identity(os.stat(self._path))
        self._log_file = _identity(os.stat(self._log))

    def check(self) -> int:
        """The length of the log's file in octets. Raises DatabaseUnavailable when a name leads elsewhere or nowhere."""
        try:
            database, log = os.stat(self._path), os.stat(self._log)
        except OSError as error:
            raise DatabaseUnavailable(f"{error.filename} is gone ({error.strerror})") from None
        for name, was, found in (
            (self._path, self._database_file, database),
            (self._log, self._log_file, log),
        ):
            if _identity(found) != was:
                raise DatabaseUnavailable(f"{name} is another file than the one that is open")
        return log.st_size


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino
