"""The stores that mailfarm and the queue design share: a Redis that syncs, a Redis that keeps nothing, a PostgreSQL."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg2
from children import ROOT, WORK

sys.path.insert(0, str(ROOT / "tests"))

from servers import Postgres, Redis, server_folder

_TUNING = ("shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "wal_compression=off")

Server = TypeVar("Server", Redis, Postgres)


class Stand:
    """Stores on free ports, started on entering and ended on leaving; ``folder`` is for logs."""

    queue: Redis
    cache: Redis
    postgres: Postgres
    folder: Path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            WORK.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir=WORK))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.queue = self.redis(stack)
            self.cache = self.redis(stack, "--appendonly", "no")
            tuning = [word for setting in _TUNING for word in ("-c", setting)]
            self.postgres = _started(stack, Postgres(self._folder(stack), *tuning))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def redis(self, stack: ExitStack, *options: str) -> Redis:
        """One more Redis, for as long as the stack lasts."""
        return _started(stack, Redis(self._folder(stack), *options))

    def _folder(self, stack: ExitStack) -> Path:
        folder = server_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _started(stack: ExitStack, server: Server) -> Server:
    """Started, and ended with the stack also where starting is interrupted."""
    stack.push(server)
    server.start()
    return server


def process_of(server: Any) -> int:
    """The id of a server's process."""
    return int(server.process.pid)


class Rows:
    """A connection to Postgres that asks small questions."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of an answer; none where there is no answer to give."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
