"""PostgreSQL in trouble: restarted, killed, stalled, full up, away, or gone in the middle of a unit."""

from __future__ import annotations

import os
import shutil
import signal
import time

import psycopg2
import pytest
import pytest_twisted
from postgres_house import file, pause, sample, spools, statement
from servers import Postgres, free_port, server_folder
from spooled_samples import soon, start, until
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher

from mailfarm.backends.postgres_schema import migrate
from mailfarm.errors import DatabaseUnavailable


@pytest.fixture(scope="module")
def own(component):
    """A server for this file alone, and a database with the schema."""
    component("postgres")
    folder = server_folder()
    with Postgres(folder) as server:
        server.template = server.new_database()
        migrate(server.template)
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def url(own):
    return own.new_database(own.template.rpartition("/")[2])


@pytest.fixture
def logged():
    lines = []

    def hear(event):
        lines.append(formatEvent(event) + str(event.get("log_failure", "")))

    globalLogPublisher.addObserver(hear)
    yield lines
    globalLogPublisher.removeObserver(hear)


class Load:
    """Units one after another, by many; what was confirmed must be there."""

    def __init__(self, database, many=20):
        self.database = database
        self.confirmed = set()
        self.refused = []
        self.longest = 0.0
        self.last = time.monotonic()
        self.stopping = False
        self.running = [start(self._units(number)) for number in range(many)]

    async def _units(self, number):
        count = 0
        while not self.stopping:
            count += 1
            spool = f"{number}-{count}"
            since = time.monotonic()
            try:
                await self.database.unit(file(spool))
            except DatabaseUnavailable as error:
                self.refused.append(str(error))
                await pause(0.02)
            else:
                self.confirmed.add(spool)
                self.last = time.monotonic()
            self.longest = max(self.longest, time.monotonic() - since)

    async def stop(self):
        self.stopping = True
        await soon(gatherResults(self.running))


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest_twisted.ensureDeferred
async def test_a_restart_under_load_is_got_over_without_one_of_our_own(own, url, made, logged, how):
    database = made(url)
    load = Load(database)
    await until(lambda: len(load.confirmed) > 50)
    await deferToThread(getattr(own, how))
    await pause(0.3)
    before = len(load.confirmed)
    await deferToThread(own.start)
    ready = time.monotonic()
    await until(lambda: len(load.confirmed) > before + 50)
    recovered = load.last - ready
    print(f"after {how}: 50 units within {recovered:.2f} s of its coming back; {len(load.refused)} were refused")
    assert recovered < 5
    await load.stop()
    assert load.confirmed <= await database.read(spools)
    assert load.longest < 20
    assert not [line for line in logged if "Traceback" in line]
    assert [line for line in logged if "answers again" in line]


def everyone(server, number):
    """Signal the server and all its processes."""
    parent = server.process.pid
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        for child in (parent, *map(int, children.read().split())):
            os.kill(child, number)


@pytest_twisted.ensureDeferred
async def test_a_server_that_stalls_is_given_up_in_time_and_taken_back(own, url, made):
    database = made(url, wait=1.0, answer=1.0, patience=2.0, connect=1.0)
    load = Load(database, 12)
    await until(lambda: len(load.confirmed) > 20)
    everyone(own, signal.SIGSTOP)
    try:
        await until(lambda: len(load.refused) > 40)
        known = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await database.unit(file("known to be away"))
        assert time.monotonic() - known < 4
    finally:
        everyone(own, signal.SIGCONT)
    before = len(load.confirmed)
    await until(lambda: len(load.confirmed) > before + 50)
    await load.stop()
    assert load.longest < 8
    assert load.confirmed <= await database.read(spools)


@pytest_twisted.ensureDeferred
async def test_connections_that_died_while_they_rested_cost_nobody_anything(own, url, made):
    database = made(url, pool=4)
    await gatherResults([start(database.read(statement("select pg_sleep(0.7)"))) for _ in range(4)])
    await until(lambda: database.pool.idle == 4)
    with psycopg2.connect(own.dsn("postgres")) as other, other.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (url.rpartition("/")[2],)
        )
    other.close()
    await until(lambda: database.pool.idle == 0)
    assert await database.unit(file("a")) == 1
    assert sample(database, "retries_total", why="lost") == 0


@pytest_twisted.ensureDeferred
async def test_nothing_that_listens_and_no_such_name_are_said_in_time(made):
    for url, word in (
        (f"postgresql://mailfarm@127.0.0.1:{free_port()}/x", "refused"),
        ("postgresql://mailfarm@nowhere.invalid/x", "nowhere.invalid cannot be resolved"),
    ):
        database = made(url, wait=0.5)
        since = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=word):
            await database.read(spools)
        assert word in database.away
        assert time.monotonic() - since < 5


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_made_later_is_found(own, made):
    name = "later"
    database = made(own.dsn(name), wait=0.3)
    with pytest.raises(DatabaseUnavailable, match='database "later" does not exist'):
        await database.read(spools)
    connection = psycopg2.connect(own.dsn("postgres"))
    connection.autocommit = True
    connection.cursor().execute(f"create database {name} template {own.template.rpartition('/')[2]}")
    connection.close()
    await until(lambda: not database.away)
    assert await database.unit(file("a")) == 1


@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_said_and_neither_is_repeated(own, url, made, logged):
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("create role farmer login superuser password 'the right one'")
    connection.close()
    hba = own.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("host all farmer 127.0.0.1/32 scram-sha-256\n" + before)
    own.signal(signal.SIGHUP)
    farmers = url.replace("mailfarm@", "farmer@")
    try:
        database = made(farmers, password="the wrong one", wait=1.0)
        with pytest.raises(DatabaseUnavailable, match="password authentication failed") as caught:
            await database.read(spools)
        right = made(farmers.replace("farmer@", "farmer:ignored@"), password="the right one")
        assert await right.unit(file("a")) == 1
        told = "".join([*logged, str(caught.value), repr(caught.value), database.away, str(right.pool._server)])
        told += repr(right.pool._server)
        assert "the wrong one" not in told
        assert "the right one" not in told
        assert "ignored" not in told
    finally:
        hba.write_text(before)
        own.signal(signal.SIGHUP)


@pytest_twisted.ensureDeferred
async def test_a_server_that_has_become_a_standby_is_left_and_found_again_when_it_is_primary(own, url, made):
    database = made(url, wait=0.5)
    assert await database.unit(file("a")) == 1
    signal_file = own.data / "standby.signal"
    await deferToThread(own.stop)
    signal_file.touch()
    await deferToThread(own.start)
    try:
        with pytest.raises(DatabaseUnavailable, match="standby"):
            await database.unit(file("b"))
    finally:
        connection = psycopg2.connect(own.dsn("postgres"))
        connection.cursor().execute("select pg_promote()")
        connection.close()
    await until(lambda: not database.away)
    assert await database.unit(file("b")) == 1


@pytest_twisted.ensureDeferred
async def test_a_connection_that_cannot_be_written_any_more_is_not_used_again(own, url, made):
    database = made(url, pool=1)

    async def demote(tx):
        await tx.row("select set_config('default_transaction_read_only', 'on', false)")

    await database.unit(demote)  # as on a primary that lost its place with its connections open
    with pytest.raises(DatabaseUnavailable, match="cannot be written"):
        await database.unit(file("a"))
    assert await database.unit(file("a")) == 1
