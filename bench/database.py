#!/usr/bin/env python3
"""What a unit, a read, a row and a megabyte cost through the Database port: PostgreSQL and SQLite.

    .venv/bin/python bench/database.py [--quick] [--url postgresql://user@host/empty_database]

Nothing else is in the process. Without ``--url`` a server of one's own is started, synced, on this machine; the
database of a URL must be empty and is left with the schema in it. CPU is this process's. Units are the smallest that
write: one row. *Rows* are units of 1,000 rows of 60 octets. *MB* are rows of 1 MiB of content that does not compress.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report
from children import ROOT, WORK
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.postgres_schema import migrate
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.ids import Ids
from mailfarm.ports import Tx

MIB = 1024 * 1024
_CONTENT = ("id", "until", "account", "size", "sha256", "stored_at", "trace", "chunks", "detail", "data")
HEAD = ("engine", "what", "at once", "a second", "p50 ms", "p99 ms", "CPU µs each")


def clock() -> int:
    return time.time_ns() // 1000


IDS = Ids(clock, os.urandom)


@contextmanager
def server(url: str) -> Iterator[str]:
    """A PostgreSQL server of one's own, unless there is a URL."""
    if url:
        yield url
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from servers import Postgres, server_folder

    folder = server_folder()
    with Postgres(folder) as postgres:
        yield postgres.new_database()
    shutil.rmtree(folder)


async def write(tx: Tx) -> int:
    return await tx.insert("filed", ("spool", "filed_at"), [(IDS.new(), tx.now)])


async def write_many(tx: Tx) -> int:
    return await tx.insert("filed", ("spool", "filed_at"), [(IDS.new() + "-" * 34, tx.now) for _ in range(1000)])


async def write_piece(tx: Tx) -> int:
    row = (IDS.new(), 2**63 - 1, "a", MIB, b"", tx.now, b"", 0, 0, os.urandom(MIB))
    return await tx.insert("content", _CONTENT, [row])


async def begin(tx: Tx) -> int:
    return await tx.insert("account", ("id", "name", "created_at"), [("a", "a", 1)])


async def look(tx: Tx) -> Any:
    return await tx.row("select id, seq from mailbox where id = ? and (ends_at is null or ends_at > ?)", ("x", tx.now))


async def read_piece(tx: Tx) -> Any:
    return await tx.row("select data from content limit 1")


async def measure(
    engine: str, what: str, call: Callable[[], Awaitable[Any]], at_once: int, count: int, of: int = 1
) -> tuple[object, ...]:
    """``count`` calls by ``at_once`` callers; each is ``of`` of what is counted."""
    waits: list[float] = []

    async def caller() -> None:
        while left[0] > 0:
            left[0] -= 1
            since = time.monotonic()
            await call()
            waits.append(time.monotonic() - since)

    left = [at_once * 2]
    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(at_once)])  # connections, caches
    waits.clear()
    left = [count]
    began, cpu = time.monotonic(), time.process_time()
    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(at_once)])
    took, used = time.monotonic() - began, time.process_time() - cpu
    waits.sort()
    middle, most = waits[count // 2] * 1e3, waits[count * 99 // 100] * 1e3
    return engine, what, at_once, count * of / took, middle, most, used / count / of * 1e6


async def measure_all(engine: str, database: Any, quick: bool) -> list[tuple[object, ...]]:
    await database.unit(begin)
    part = 10 if quick else 1
    rows = []
    for what, call, at_once, count, of in (
        ("unit", lambda: database.unit(write), 1, 2_000, 1),
        ("unit", lambda: database.unit(write), 50, 10_000, 1),
        ("read", lambda: database.read(look), 1, 4_000, 1),
        ("read", lambda: database.read(look), 50, 20_000, 1),
        ("row", lambda: database.unit(write_many), 1, 100, 1000),
        ("row", lambda: database.unit(write_many), 4, 100, 1000),
        ("MB written", lambda: database.unit(write_piece), 4, 200, 1),
        ("MB read", lambda: database.read(read_piece), 4, 200, 1),
    ):
        rows.append(await measure(engine, what, call, at_once, max(count // part, 20), of))
        print("  ".join(str(round(v, 2) if isinstance(v, float) else v) for v in rows[-1]), flush=True)
    return rows


async def main(options: argparse.Namespace) -> None:
    facts = report.machine()
    with server(options.url) as url:
        migrate(url)
        postgres = PostgresDatabase(url, reactor)
        rows = await measure_all("PostgreSQL", postgres, options.quick)
        await postgres.stop()
    WORK.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="database-", dir=WORK))
    engine = Engine(folder / "database.sqlite", clock=clock, deliver=reactor.callFromThread)  # type: ignore[attr-defined]
    rows += await measure_all("SQLite", Database(engine), options.quick)
    await engine.close()
    shutil.rmtree(folder)
    text = f"{report.about(facts)}\n\n{report.table(HEAD, rows)}"
    form = {"machine": facts, "rows": [list(row) for row in rows], "head": HEAD}
    print(report.save("database", options.quick, form, text))
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--url", default="", help="an empty database on a server that is there")
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments)))
