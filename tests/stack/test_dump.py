"""What stack/backup and stack/restore do beside Postgres, on a Postgres of the tests: the deployed stack is in
test_stack_backup.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from beside_postgres import beside
from running import until
from servers import Postgres

from mailfarm.backends.postgres_schema import migrate

EVERYTHING = "select content.id, data, message.id, mailbox.seq from content, message, mailbox order by 1, 3"


class Place:
    """A database with one mail in it, and a folder for dumps."""

    def __init__(self, server: Postgres, folder: Path) -> None:
        self.url = server.new_database()
        self.folder = folder
        self.parts = urlsplit(self.url)
        self.name = self.parts.path[1:]
        migrate(self.url)
        (folder / "password").write_text("nobody asks")
        self.ask("insert into account values ('a', 'main', 1)")
        self.ask("insert into mailbox (id, account, address, address_key, kind, created_at, starts_at) "
                 "values ('m', 'a', 'x@example.org', 'x@example.org', 'permanent', 1, 1)")  # fmt: skip
        self.file("1")

    def file(self, id: str) -> None:
        """Put a mail there."""
        content = "insert into content values (%s, 9223372036854775807, 'a', 3, 'x', 1, 'x', 0, 0, %s)"
        self.ask(content, (id, os.urandom(3000)))
        values = "(%s, 'm', %s, 9223372036854775807, 3, 0, %s, 1, '', '', '{}', '')"
        columns = "id, mailbox, content, until, size, shared, seq, received_at, sender, from_key, summary, message_id"
        self.ask(f"insert into message ({columns}) values {values}", (id, id, int(id)))
        self.ask("update mailbox set seq = seq + 1")

    def ask(self, sql: str, parameters: tuple[Any, ...] = (), database: str = "") -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        with closing(psycopg2.connect(self.url.replace(self.name, database or self.name))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []

    def everything(self) -> list[tuple[Any, ...]]:
        """What there is."""
        return [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in self.ask(EVERYTHING)]

    def databases(self) -> set[str]:
        """Those that begin with our name, by what is added to it."""
        rows = self.ask("select datname from pg_database", database="postgres")
        return {name.removeprefix(self.name) for (name,) in rows if name in (self.name, *self._others())}

    def _others(self) -> tuple[str, str]:
        return f"{self.name}_restored", f"{self.name}_before"

    def run(self, *words: str, code: int = 0) -> str:
        """A function of postgres.bash; what it said."""
        return beside(self.parts.port, self.name, self.folder, "password", *words, code=code)

    def dump(self) -> Path:
        """Make one."""
        path = self.folder / "farm.dump"
        path.touch()
        assert "schema version " in self.run("dump", path.name)
        return path


@pytest.fixture
def place(postgres: Postgres, tmp_path: Path) -> Iterator[Place]:
    place = Place(postgres, tmp_path)
    yield place
    for name in (place.name, *place._others()):
        place.ask(f"drop database if exists {name} with (force)", database="postgres")


def test_what_was_dumped_takes_the_place_of_what_is_there(place: Place) -> None:
    before = place.everything()
    path = place.dump()
    assert path.read_bytes()[:5] == b"PGDMP"
    place.file("2")
    place.ask("delete from message where id = '1'")
    said = place.run("look", path.name, str(path.stat().st_size)).splitlines()
    assert any(line.startswith("schema: 1:1") for line in said)
    assert "it has 1 mailboxes, 1 messages" in place.run("load", path.name)
    assert len(place.ask("select id from message")) == 1  # nothing has changed yet
    assert place.run("left").split() == [f"{place.name}_restored"]
    place.run("swap")
    assert place.everything() == before
    assert place.databases() == {"", "_before"}
    assert place.ask("select id from message", database=f"{place.name}_before") == [("2",)]
    place.run("drop", f"{place.name}_before")
    assert place.databases() == {""}


def test_a_dump_that_is_cut_off_changes_nothing(place: Place) -> None:
    path = place.dump()
    whole = path.read_bytes()
    before = place.everything()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    said = place.run("load", path.name, code=1)
    assert "pg_restore: error" in said
    assert place.everything() == before
    path.write_bytes(whole)
    place.run("load", path.name)  # what the failed one left is not in the way
    place.run("swap")
    assert place.everything() == before


def test_a_dump_is_not_begun_where_it_cannot_be_written(place: Place) -> None:
    said = place.run("dump", "not-there", code=1)
    assert "on another machine" in said


def test_the_swap_does_not_wait_for_those_who_come_back(place: Place) -> None:
    """As services do: they connect again the moment they are cut."""
    path = place.dump()
    place.file("2")
    place.run("load", path.name)
    ended, cut = threading.Event(), []

    def use() -> None:
        while not ended.is_set():
            try:
                with closing(psycopg2.connect(place.url)) as connection, connection.cursor() as cursor:
                    while not ended.is_set():
                        cursor.execute("select count(*) from message")
            except psycopg2.Error as error:
                cut.append(str(error))

    users = [threading.Thread(target=use) for _ in range(4)]
    for each in users:
        each.start()
    try:
        until(lambda: place.ask("select count(*) from pg_stat_activity where datname = %s", (place.name,))[0][0] > 4)
        place.run("swap")
        assert place.ask("select id from message") == [("1",)]
        assert cut
    finally:
        ended.set()
        for each in users:
            each.join()
