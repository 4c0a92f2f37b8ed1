"""PostgreSQL: killed with all its processes while it syncs slowly, when a sync fails, restarted amid a unit.

What PostgreSQL has committed survives the kill of all its processes, for it was written before; synced or not makes a
difference to a power cut alone. With ``synchronous_commit=off`` it is not even written for a while, so a kill loses it.
mailfarm turns that on for every connection of its own, so the control needs a database that takes it back.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from mailfarm.prove import trace
from mailfarm.prove.processes import StorePart
from mailfarm.prove.servers import Postgres
from mailfarm.prove.target import Options, Target
from mailfarm.prove.trace import SYNCS, Trace

from . import Fault, Tell
from .queued import until

SLOW = 0.3
"""Seconds that a sync takes where it is slow."""
FAILS = 2.0
"""Seconds for which each sync fails."""
DATABASE = "mailfarm1"
"""The target's, the first that its server was asked for."""
_TAKEN_BACK = """
    create schema planted;
    create function planted.set_config(name text, value text, local boolean) returns text language sql as
        $$ select pg_catalog.set_config(name, case name when 'synchronous_commit' then 'off' else value end, local) $$;
    alter role mailfarm set search_path = planted, pg_catalog, public;
"""


class KillSlowSync(Fault):
    """Every process of PostgreSQL is killed while each sync takes long."""

    name = "postgres-kill-slow-sync"
    family = "postgres"
    says = f"every process of PostgreSQL is killed while each sync takes {SLOW:g} s"
    times = 2

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("postgres")
        delay = f"fdatasync:delay_enter={int(SLOW * 1e6)}"
        with Trace(_all(part.pid()), target.folder / "postgres.strace", calls=SYNCS, inject=[delay]):
            time.sleep(dice.uniform(0.5, 2))
            part.kill()
        part.start()


class CommitLater(Fault):
    """The control: what is committed is written later, and writing is slow."""

    name = "postgres-commit-later"
    family = "postgres"
    says = "control: PostgreSQL is killed with synchronous_commit=off, which must lose mail"
    control = True
    options = Options(postgres_options=("-c", "wal_writer_delay=10s"))

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("postgres")
        with _session(server(part)) as session:
            session.execute(_TAKEN_BACK)
        for service in ("mx", "submission", "inbound", "api", "live", "sweep"):
            for each in target.of(service):
                target.wire(each.name, "postgres").cut()
        time.sleep(1)
        delay = f"pwrite64:delay_enter={int(10 * SLOW * 1e6)}"
        with Trace([_walwriter(part.pid())], target.folder / "postgres.strace", calls=["pwrite64"], inject=[delay]):
            time.sleep(dice.uniform(6, 8) * SLOW)
            part.kill()
        part.start()


class SyncFails(Fault):
    """Each sync of PostgreSQL fails for a while. It ends all its processes at the first and begins again."""

    name = "postgres-sync-fails"
    family = "postgres"
    says = f"every sync of PostgreSQL fails with EIO for {FAILS:g} s: it panics"

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("postgres")
        failing = ["fdatasync:error=EIO"]
        file = target.folder / "postgres.strace"
        with Trace(_all(part.pid()), file, calls=SYNCS, inject=failing) as traced:
            time.sleep(FAILS)
            failed = sum(call.result == -1 for call in traced.detach())
        tell(f"{failed} syncs failed")
        if not part.running():
            part.start()


class RestartInUnit(Fault):
    """A mailbox's row is locked, so that a unit that files waits for it; then PostgreSQL is restarted under it."""

    family = "postgres"

    def __init__(self, mode: str, number: int) -> None:
        self.name = f"postgres-restart-{mode}"
        self.says = f"PostgreSQL is restarted ({mode}) in the middle of a unit that files mail"
        self._number = number

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("postgres")
        postgres = server(part)
        with _session(postgres) as lock, _session(postgres) as look:
            lock.execute("begin; select 1 from mailbox order by id for update")
            until(lambda: _waits(look), "a unit waits for the row")
            tell("a unit was open")
            postgres.signal(self._number)
            until(lambda: not part.running(), "PostgreSQL ends")
        part.start()


def _waits(look: psycopg2.extensions.cursor) -> bool:
    """Whether a unit has begun and cannot go on."""
    look.execute(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and xact_start is not null"
        " and datname = current_database()"
    )
    row = look.fetchone()
    return bool(row and row[0])


@contextlib.contextmanager
def _session(postgres: Postgres) -> Iterator[psycopg2.extensions.cursor]:
    """A session in the target's database; it may end with the server."""
    connection = psycopg2.connect(postgres.dsn(DATABASE))
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


def server(part: object) -> Postgres:
    """The Postgres of a part."""
    assert isinstance(part, StorePart)
    assert isinstance(part.server, Postgres)
    return part.server


def _all(pid: int) -> list[int]:
    return [pid, *trace.children(pid)]


def _walwriter(pid: int) -> int:
    """The process that writes what was committed and not written."""
    (found,) = [each for each in trace.children(pid) if b"walwriter" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return found


def faults() -> Iterator[Fault]:
    """One of each."""
    yield KillSlowSync()
    yield SyncFails()
    yield RestartInUnit("fast", signal.SIGINT)
    yield RestartInUnit("immediate", signal.SIGQUIT)
    yield CommitLater()
