"""The servers of ``mailfarm.prove.servers``, and what only tests want of Postgres: a clock that can be set, and
databases that are used again.

The fixtures ``redis`` and ``postgres`` (``tests/conftest.py``) are one server of each for a whole worker process; a
test that stops or breaks a server starts its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2

from mailfarm.prove.servers import Postgres, Redis, Sentinel, free_port, postgres_program, server_folder

__all__ = [
    "Postgres",
    "Redis",
    "Sentinel",
    "Spares",
    "add_clock",
    "free_port",
    "postgres_program",
    "queue_and_cache",
    "server_folder",
    "set_clock",
    "shifted_url",
]

_CLOCK = """
    create schema shifted;
    create table shifted.clock (ahead interval not null);
    insert into shifted.clock values ('0');
    create function shifted.clock_timestamp() returns timestamptz language sql as
        'select pg_catalog.clock_timestamp() + ahead from shifted.clock';
"""


@contextmanager
def queue_and_cache() -> Iterator[tuple[Redis, Redis]]:
    """The Redis servers of a cluster of a test's own. Their folder is gone afterwards."""
    folder = server_folder()
    for name in ("queue", "cache"):
        (folder / name).mkdir()
    try:
        with Redis(folder / "queue") as queue, Redis(folder / "cache", "--appendonly", "no") as cache:
            yield queue, cache
    finally:
        shutil.rmtree(folder)


def add_clock(url: str) -> None:
    """Give a database a clock that can be set. Who connects with ``shifted_url`` is told its time."""
    _once(url, _CLOCK)


def shifted_url(url: str) -> str:
    """The URL for a connection to which ``clock_timestamp()`` is the clock that can be set."""
    return f"{url}?options=-csearch_path%3Dshifted,pg_catalog,public"


def set_clock(url: str, ahead: float) -> None:
    """Set the clock of a database, so many seconds ahead."""
    _once(url, "update shifted.clock set ahead = make_interval(secs => %s)", (ahead,))


_STATE = """
    select (select count(*) from pg_class where relnamespace in ('public'::regnamespace, 'shifted'::regnamespace)),
           (select count(*) from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
            where d.datname = current_database())
"""
_EMPTY = """
    set synchronous_commit = off;
    set lock_timeout = '2s';
    delete from account;
    delete from content;
    delete from content_chunk;
    delete from filed;
    update shifted.clock set ahead = '0' where ahead <> '0';
"""


class Spares:
    """Databases with mailfarm's schema, emptied and used again: a new one costs seven megabytes and their syncs."""

    def __init__(self, server: Postgres, template: str) -> None:
        self._server = server
        self._template = template
        self._spare: list[str] = []

    def take(self) -> str:
        """The URL of one with nothing in it."""
        return self._spare.pop() if self._spare else self._server.new_database(self._template)

    def give(self, url: str) -> None:
        """Take it back. One whose schema or settings a test has changed, or that is still in use, is dropped."""
        try:
            state = _once(url, _STATE)
            _once(url, _EMPTY)
            if state == _once(self._server.dsn(self._template), _STATE):
                self._spare.append(url)
                return
        except psycopg2.Error:
            pass
        connection = psycopg2.connect(self._server.dsn("postgres"))
        connection.autocommit = True
        connection.cursor().execute(f"drop database if exists {url.rpartition('/')[2]} with (force)")
        connection.close()


def _once(url: str, sql: str, params: Sequence[Any] = ()) -> Any:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()
