"""Units on PostgreSQL: run again or not, given up in time, and whole whatever happens."""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg2
import pytest
import pytest_twisted
from postgres_house import file, pause, sample, spools, statement
from servers import set_clock, shifted_url
from spooled_samples import clock, soon, start, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import globalLogPublisher
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyServer

from mailfarm.backends.postgres_link import Link
from mailfarm.errors import DatabaseUnavailable


@pytest_twisted.ensureDeferred
async def test_a_unit_whose_connection_is_killed_is_run_again_and_done_once(postgres_database, made):
    database = made(postgres_database)
    runs = []

    async def work(tx):
        runs.append(tx.now)
        await file("once")(tx)
        if len(runs) < 3:
            await tx.row("select pg_terminate_backend(pg_backend_pid())")
        return len(runs)

    assert await database.unit(work) == 3
    assert await database.read(spools) == {"once"}
    assert sample(database, "retries_total", why="lost") == 2


@pytest_twisted.ensureDeferred
async def test_deadlocks_end_and_both_units_are_done(postgres_database, made):
    database = made(postgres_database)
    await database.unit(file("a"))
    await database.unit(file("b"))

    def turn(first, second):
        async def work(tx):
            sql = "update filed set filed_at = filed_at + 1 where spool = ?"
            await tx.execute(sql, (first,))
            await tx.row("select pg_sleep(0.3)")
            await tx.execute(sql, (second,))

        return work

    before = await database.read(statement("select sum(filed_at)::bigint from filed"))
    await soon(gatherResults([start(database.unit(turn("a", "b"))), start(database.unit(turn("b", "a")))]))
    after = await database.read(statement("select sum(filed_at)::bigint from filed"))
    assert after[0] == before[0] + 4
    assert sample(database, "retries_total", why="deadlock") + sample(database, "retries_total", why="conflict") >= 1


@pytest_twisted.ensureDeferred
async def test_units_that_begin_with_a_lock_take_turns_and_are_not_run_again(postgres_database, made):
    database = made(postgres_database)
    runs = 0

    async def begin(tx):
        await tx.insert("account", ("id", "name", "created_at"), [("a", "0", 1)])

    async def work(tx):
        nonlocal runs
        runs += 1
        await tx.lock("account", ["a"])
        (name,) = await tx.row("select name from account where id = 'a'")
        await tx.execute("update account set name = ? where id = 'a'", (str(int(name) + 1),))

    await database.unit(begin)
    await soon(gatherResults([start(database.unit(work)) for _ in range(200)]))
    assert await database.read(statement("select name from account")) == ("200",)
    assert runs == 200


@pytest_twisted.ensureDeferred
async def test_when_all_connections_are_busy_it_says_so_in_time(postgres_database, made):
    database = made(postgres_database, pool=2, wait=0.3, most_waiting=5)
    busy = [start(database.read(statement("select pg_sleep(1.5)"))) for _ in range(2)]
    await until(lambda: database.pool.busy == 2)
    since = time.monotonic()
    waiting = [start(database.unit(file(f"{n}"))) for n in range(5)]
    with pytest.raises(DatabaseUnavailable, match="5 already wait"):
        await database.unit(file("one too many"))
    assert time.monotonic() - since < 0.25
    assert sample(database, "waiting") == 5
    for success, failure in await DeferredList(waiting, consumeErrors=True):
        assert not success
        assert "2 of 2 connections" in str(failure.value)
    assert time.monotonic() - since < 1.2
    await soon(gatherResults(busy))
    assert await database.unit(file("later")) == 1


class Relay(ProxyServer):
    """Between us and PostgreSQL, a line that breaks at COMMIT: before it gets there, or before its answer comes
    back."""

    def dataReceived(self, data):
        if self.factory.when and b"COMMIT" in data:
            if self.factory.when == "before":
                self.transport.abortConnection()
                return
            self.peer.deaf = True
        ProxyServer.dataReceived(self, data)


class ToServer(ProxyClient):
    deaf = False

    def dataReceived(self, data):
        if self.deaf:
            self.peer.transport.abortConnection()
        else:
            ProxyClient.dataReceived(self, data)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest_twisted.ensureDeferred
async def test_a_connection_lost_at_commit_is_an_unknown_outcome(postgres, postgres_database, made, when):
    factory = Factory.forProtocol(Relay)
    factory.host, factory.port, factory.when = "127.0.0.1", postgres.port, ""
    to_server = ProxyClientFactory
    Relay.clientProtocolFactory = type("ToServerFactory", (to_server,), {"protocol": ToServer, "noisy": False})
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        database = made(postgres_database.replace(f":{postgres.port}/", f":{port.getHost().port}/"))
        assert await database.unit(file("ok")) == 1
        runs = []

        async def work(tx):
            runs.append(1)
            await file("lost")(tx)

        factory.when = when
        with pytest.raises(DatabaseUnavailable, match="whether it was stored is not known"):
            await database.unit(work)
        factory.when = ""
        assert len(runs) == 1
        there = await database.read(spools)
        assert there == ({"ok"} if when == "before" else {"ok", "lost"})
        await database.stop()
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_statement_that_takes_too_long_is_given_up(postgres_database, made):
    database = made(postgres_database, answer=2.0)
    since = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="statement timeout"):
        await database.unit(statement("select pg_sleep(5)"))
    assert time.monotonic() - since < 4
    assert await database.unit(file("a")) == 1


@pytest_twisted.ensureDeferred
async def test_a_unit_that_goes_dumb_does_not_hold_its_locks_for_ever(postgres_database, made):
    database, other = made(postgres_database, answer=1.0), made(postgres_database)
    await database.unit(file("a"))
    link = await database.pool.take()
    await link.ask("begin; update filed set filed_at = 1")

    async def work(tx):
        return await tx.execute("update filed set filed_at = 2")

    assert await soon(start(other.unit(work))) == 1
    await until(lambda: link.why)
    database.pool.give(link)


@pytest_twisted.ensureDeferred
async def test_a_unit_that_is_given_up_and_takes_long_leaves_no_lock_and_no_connection_behind(postgres_database, made):
    database = made(postgres_database, pool=1)
    await database.unit(file("a"))

    async def work(tx):
        await tx.execute("update filed set filed_at = 1")
        await tx.row("select pg_sleep(10)")

    unit = database.unit(work)
    await until(lambda: database.pool.busy == 1)
    await pause(0.1)
    unit.cancel()
    with pytest.raises(CancelledError):
        await unit

    async def other(tx):
        return await tx.execute("update filed set filed_at = 2")

    since = time.monotonic()
    assert await soon(start(database.unit(other))) == 1
    assert time.monotonic() - since < 5


@pytest.mark.parametrize("how", ["read", "once", "unit"])
@pytest_twisted.ensureDeferred
async def test_who_gives_up_costs_no_connection(postgres_database, made, how):
    """The statement ends, the unit is rolled back, and the next one has the same connection."""
    database = made(postgres_database, pool=1)
    (backend,) = await database.read(statement("select pg_backend_pid()"))
    ran = []

    async def work(tx):
        if how == "unit":
            await tx.execute("insert into filed (spool, filed_at) values ('never', 1)")
        ran.append("asked")
        await tx.row("select pg_sleep(0.3)")
        ran.append("went on")

    for _ in range(5):
        ran.clear()
        run = {"unit": database.unit, "read": database.read, "once": lambda work: database.read(work, once=True)}[how]
        given_up = start(run(work))
        await until(lambda: ran)
        given_up.cancel()
        began = time.monotonic()
        with pytest.raises(CancelledError):
            await given_up
        assert time.monotonic() - began < 0.2, "the caller does not wait for it"
        assert await database.read(statement("select pg_backend_pid()")) == (backend,)
        assert ran == ["asked"]
    assert await database.read(spools) == set()


@pytest_twisted.ensureDeferred
async def test_who_gives_up_in_line_leaves_the_line(postgres_database, made):
    database = made(postgres_database, pool=1)
    busy = start(database.read(statement("select pg_sleep(0.3)")))
    await until(lambda: database.pool.busy == 1)
    ran = []

    async def work(tx):
        ran.append(tx)

    waiting = start(database.unit(work))
    await until(lambda: database.pool.waiting == 1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert database.pool.waiting == 0
    await busy
    await database.read(statement("select 1"))
    assert not ran


@pytest_twisted.ensureDeferred
async def test_an_error_that_is_swallowed_does_not_look_like_success(postgres_database, made):
    database = made(postgres_database)

    async def work(tx):
        await file("a")(tx)
        try:
            await file("a")(tx)
        except psycopg2.Error:
            return "fine"

    with pytest.raises(psycopg2.errors.UniqueViolation):
        await database.unit(work)
    assert await database.read(spools) == set()


@pytest_twisted.ensureDeferred
async def test_text_that_cannot_be_stored_is_mended_not_refused(postgres_database, made):
    database = made(postgres_database)

    async def work(tx):
        await tx.insert("filed", ["spool", "filed_at"], [("a\x00b", 1), ("c\udcffd", 2), ("ok ?%s%", 3)])
        await tx.lock("mailbox", ["\x00"])
        return await tx.rows("select spool, 'what? 100%' from filed where spool <> ? order by filed_at", ("\x00",))

    assert await database.unit(work) == [
        ("a\ufffdb", "what? 100%"),
        ("c\ufffdd", "what? 100%"),
        ("ok ?%s%", "what? 100%"),
    ]


@pytest_twisted.ensureDeferred
async def test_the_databases_clock_is_the_one_that_counts(postgres_database, made):
    database = made(shifted_url(postgres_database))

    async def now(tx):
        return tx.now

    assert abs(await database.read(now) - clock()) < 60_000_000
    set_clock(postgres_database, 600)
    assert abs(await database.read(now) - clock() - 600_000_000) < 60_000_000


@pytest_twisted.ensureDeferred
async def test_connections_without_work_are_closed_all_but_one(postgres_database, made):
    database = made(postgres_database, pool=4)
    database.pool._idle_time = 0.2
    await gatherResults([start(database.read(statement("select pg_sleep(0.7)"))) for _ in range(4)])
    await until(lambda: database.pool.idle == 4)
    await until(lambda: database.pool.idle == 1)


@pytest_twisted.ensureDeferred
async def test_stopping_finishes_what_is_under_way_and_takes_nothing_more(postgres_database, made):
    database = made(postgres_database)
    under_way = start(database.unit(statement("select pg_sleep(0.3), 'done'")))
    await until(lambda: database.pool.busy == 1)
    stopped = start(database.stop())
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.unit(file("a"))
    assert (await under_way)[1] == "done"
    await stopped
    assert database.pool.idle == database.pool.busy == 0


@pytest_twisted.ensureDeferred
async def test_what_a_commit_promises_cannot_be_switched_off_for_us(postgres_database, made):
    connection = psycopg2.connect(postgres_database)
    connection.autocommit = True
    connection.cursor().execute(f"alter database {postgres_database.rpartition('/')[2]} set synchronous_commit = off")
    connection.close()
    assert await made(postgres_database).read(statement("show synchronous_commit")) == ("on",)


@pytest_twisted.ensureDeferred
async def test_giving_up_at_any_moment_is_quiet_and_leaves_all_connections_usable(postgres_database, made):
    database = made(postgres_database, pool=3)
    failures = []

    def hear(event):
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    async def work(tx):
        for _ in range(3):
            await tx.row("select 1")
        await tx.execute("select 1")

    await database.unit(work)
    globalLogPublisher.addObserver(hear)
    try:
        for turns in range(120):
            await database.unit(work)  # so that there is a connection at rest
            unit = start(database.unit(work))
            for _ in range(turns):
                await pause(0)
            unit.cancel()
            with suppress(CancelledError):
                await unit
            await pause(0)
        await soon(gatherResults([start(database.unit(work)) for _ in range(6)]))
    finally:
        globalLogPublisher.removeObserver(hear)
    assert not failures


@pytest_twisted.ensureDeferred
async def test_a_read_that_asks_once_is_one_journey_and_leaves_nothing_open(postgres_database, made, monkeypatch):
    database = made(postgres_database, pool=1)
    journeys = []
    for way in ("ask", "journey"):
        counted(monkeypatch, way, journeys)

    async def work(tx):
        return await tx.several([("select pg_backend_pid()", []), ("select count(*) from filed", [])])

    ((backend,),), _ = await database.read(work, once=True)
    journeys.clear()
    for _ in range(3):
        await database.read(work, once=True)
        assert open_transactions(postgres_database, backend) == ["idle"]
    assert journeys == ["journey"] * 3
    await database.read(spools, once=True)
    assert journeys == ["journey"] * 4

    async def again(tx):
        await tx.row("select 1")
        return await spools(tx)

    journeys.clear()
    assert await database.read(again, once=True) == set()
    assert journeys[:4] == ["journey", "ask", "ask", "ask"]
    assert sample(database, "units_total", kind="read", outcome="done") == 6


def counted(monkeypatch, way, journeys):
    """Have each journey that a connection makes this way noted."""
    original = getattr(Link, way)

    async def go(*args, **options):
        journeys.append(way)
        return await original(*args, **options)

    monkeypatch.setattr(Link, way, go)


def open_transactions(url, backend):
    """The state of a backend, as others see it."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("select state from pg_stat_activity where pid = %s", [backend])
        return [row[0] for row in cursor.fetchall()]
