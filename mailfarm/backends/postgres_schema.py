"""The schema in PostgreSQL: bringing it up to date, and saying where it stands.

``schema/postgres/NNNN_name.sql`` are run once each, in order, each in a transaction with the row that says so in
``mailfarm_schema``: number, name, checksum, and ``compatible_from``. That is the first line of every file,
``-- compatible_from: 3``: the oldest schema version whose programs still work on this one. So a program that knows
versions up to N can work when the database is at N, or further if the newest file there names N or less; that is what
lets two versions of the program run side by side while services are updated.

``migrate`` takes an advisory lock, so that any number may be started at the same time. It blocks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg2

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch
from mailfarm.ports import Tx

from .postgres_address import Server
from .postgres_errors import first_line
from .postgres_link import OLDEST_SERVER

SCHEMA = Path(__file__).parent.parent / "schema" / "postgres"
LOCK = 0x6D66726D
"""The key of the advisory lock: ``mfrm``."""
_TRIES = 20
"""How often a migration is tried whose locks others hold for more than three seconds. It must not wait for them: all
who come after it would wait, too."""

_TABLE = """
    create table mailfarm_schema (
        version         integer primary key,
        name            text not null,
        checksum        text not null,
        compatible_from integer not null,
        applied_at      timestamptz not null default now()
    )
"""
_IS_THERE = "select to_regclass('mailfarm_schema') is not null"
_OTHERS = (
    "select count(*) from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')"
    " and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid"
    " and d.deptype = 'e')"
)
_APPLIED = "select version, checksum, compatible_from from mailfarm_schema order by version"
_COMPATIBLE = re.compile(r"-- compatible_from: (\d+)\n")
Applied = Sequence[tuple[Any, ...]]


class SchemaOld(DatabaseUnavailable):
    """The schema is older than this program needs; it may be brought up to date at any moment."""


@dataclass(frozen=True, slots=True)
class File:
    """A migration."""

    version: int
    name: str
    text: str
    compatible_from: int

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a database's schema stands for this program. ``text`` is a sentence for a person.

    ready: it can work (also when a newer program has brought the schema further). empty, old: not before ``mailfarm
    schema`` has run. newer, foreign: never.
    """

    state: Literal["ready", "empty", "old", "newer", "foreign"]
    version: int
    text: str


def files(schema: Path = SCHEMA) -> list[File]:
    """The migrations, in order."""
    found = []
    for path in sorted(schema.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        text = path.read_text("utf-8")
        first = _COMPATIBLE.match(text)
        if first is None:
            raise ValueError(f"{path.name} must begin with a line like -- compatible_from: 1")
        found.append(File(int(path.name[:4]), path.stem[5:], text, int(first[1])))
    return found


def judge(applied: Applied | None, others: int, known: Sequence[File]) -> Standing:
    """Where a schema stands. ``applied`` is what ``mailfarm_schema`` holds, None where there is no such table;
    ``others`` is the number of tables then."""
    newest = known[-1].version
    if applied is None:
        if others:
            return Standing(
                "foreign", 0, f"the database holds {others} tables that are none of mailfarm's: use another"
            )
        return Standing("empty", 0, "the database is empty: run `mailfarm schema`")
    sums = {file.version: file.checksum for file in known}
    at = max((row[0] for row in applied), default=0)
    for version, checksum, _ in applied:
        if sums.get(version, checksum) != checksum:
            text = f"schema version {version} was made by another file than this mailfarm's: is it a development build?"
            return Standing("foreign", at, text)
    missing = [version for version in sums if version not in {row[0] for row in applied}]
    if at > newest:
        needed = applied[-1][2]
        if needed > newest or missing:
            text = f"the schema has version {at} and this mailfarm knows up to {newest}: start a newer mailfarm"
            return Standing("newer", at, text)
        return Standing("ready", at, f"the schema has version {at}, which this mailfarm ({newest}) can work with")
    if missing:
        text = f"the schema has version {at} and this mailfarm needs {newest}: run `mailfarm schema`"
        return Standing("old", at, text)
    return Standing("ready", at, f"the schema has version {at}")


async def read_standing(tx: Tx) -> Standing:
    """Where the schema stands."""
    there = await tx.row(_IS_THERE)
    assert there is not None
    if there[0]:
        return judge(await tx.rows(_APPLIED), 0, files())
    others = await tx.row(_OTHERS)
    assert others is not None
    return judge(None, others[0], files())


def check_standing(standing: Standing) -> None:
    """Raises SchemaOld, SchemaMismatch."""
    if standing.state in ("empty", "old"):
        raise SchemaOld(standing.text)
    if standing.state != "ready":
        raise SchemaMismatch(standing.text)


def look(url: str, password: str = "", timeout: float = 5.0) -> Standing:
    """Where a database's schema stands; for ``mailfarm schema --check``. Blocks. Raises DatabaseUnavailable,
    ConfigurationError."""
    connection = _connect(url, password, timeout)
    try:
        with connection.cursor() as cursor:
            return _look(cursor, files())
    except psycopg2.Error as error:
        raise DatabaseUnavailable(first_line(error)) from None
    finally:
        connection.close()


def migrate(
    url: str,
    password: str = "",
    say: Callable[[str], Any] = lambda text: None,
    *,
    timeout: float = 5.0,
    schema: Path = SCHEMA,
) -> Standing:
    """Bring a database's schema up to date; where it stands then. ``say`` is told what is being done. Blocks; waits for
    another who does the same. Raises DatabaseUnavailable, SchemaMismatch, ConfigurationError."""
    known = files(schema)
    connection = _connect(url, password, timeout)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select pg_try_advisory_lock(%s)", (LOCK,))
            if not cursor.fetchone()[0]:
                say("another `mailfarm schema` is at work; waiting for it")
                cursor.execute("select pg_advisory_lock(%s)", (LOCK,))
            standing = _look(cursor, known)
            if standing.state in ("empty", "old"):
                _run_all(cursor, known, say)
                standing = _look(cursor, known)
            elif standing.state != "ready":
                raise SchemaMismatch(standing.text)
            say(standing.text)
            return standing
    except psycopg2.errors.InsufficientPrivilege as error:
        raise SchemaMismatch(f"the database's user may not make tables: {first_line(error)}") from None
    except psycopg2.Error as error:
        raise DatabaseUnavailable(f"the schema could not be brought up to date: {first_line(error)}") from None
    finally:
        connection.close()  # and with it the advisory lock


def _connect(url: str, password: str, timeout: float) -> Any:
    server = Server.parse(url, password, "mailfarm schema")
    try:
        connection = psycopg2.connect(**server.blocking(timeout))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select current_setting('server_version_num')::integer, current_setting('server_encoding')")
            version, encoding = cursor.fetchone()
    except psycopg2.Error as error:
        raise DatabaseUnavailable(f"{server} cannot be used: {first_line(error)}") from None
    if version < OLDEST_SERVER or encoding != "UTF8":
        connection.close()
        raise SchemaMismatch(
            f"the database has the encoding {encoding} on PostgreSQL {version // 10000};"
            f" mailfarm needs UTF8 on {OLDEST_SERVER // 10000} or newer"
        )
    return connection


def _look(cursor: Any, known: Sequence[File]) -> Standing:
    cursor.execute(_IS_THERE)
    if cursor.fetchone()[0]:
        cursor.execute(_APPLIED)
        return judge(cursor.fetchall(), 0, known)
    cursor.execute(_OTHERS)
    return judge(None, cursor.fetchone()[0], known)


def _run_all(cursor: Any, known: Sequence[File], say: Callable[[str], Any]) -> None:
    cursor.execute(_IS_THERE)
    done: set[int] = set()
    if cursor.fetchone()[0]:
        cursor.execute(_APPLIED)
        done = {row[0] for row in cursor.fetchall()}
    for file in known:
        if file.version in done:
            continue
        say(f"running {file.version:04d}_{file.name}")
        for left in reversed(range(_TRIES)):
            try:
                _run(cursor, file)
                break
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
                if not left:
                    raise
                say("others use the tables; trying again")


def _run(cursor: Any, file: File) -> None:
    cursor.execute("begin")
    try:
        cursor.execute("set local lock_timeout = '3s'")
        cursor.execute(_IS_THERE)
        if not cursor.fetchone()[0]:
            cursor.execute(_TABLE)
        cursor.execute(file.text)
        cursor.execute(
            "insert into mailfarm_schema (version, name, checksum, compatible_from) values (%s, %s, %s, %s)",
            (file.version, file.name, file.checksum, file.compatible_from),
        )
        cursor.execute("commit")
    except psycopg2.Error:
        if not cursor.connection.closed:
            cursor.execute("rollback")
        raise
