"""Many octets into PostgreSQL, as COPY: what a statement would have stored, and the same errors."""

from __future__ import annotations

import os
import struct
from random import Random

import psycopg2
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from postgres_house import file, spools, statement
from spooled_samples import soon, start, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyServer

from mailfarm.backends import postgres_copy
from mailfarm.backends.postgres_libpq import BYTEA, INT4, INT8, TEXT
from mailfarm.errors import DatabaseUnavailable
from mailfarm.ports import NEVER

COLUMNS = ("content", "number", "until", "packed", "data")
PIECE = Random(5321).randbytes(256 * 1024)


def pieces(content, count=4, until=NEVER):
    return [(content, number, until, 0, PIECE) for number in range(count)]


def insert(*rows, columns=COLUMNS, table="content_chunk"):
    async def work(tx):
        return await tx.insert(table, columns, rows)

    return work


async def stored(tx):
    return await tx.rows("select content, number, until, packed, data from content_chunk order by content, number")


@pytest.fixture
def copies(monkeypatch):
    """The tables that were copied to."""
    found = []
    made = postgres_copy.statement

    def noted(table, columns):
        found.append(table)
        return made(table, columns)

    monkeypatch.setattr(postgres_copy, "statement", noted)
    return found


@pytest_twisted.ensureDeferred
async def test_large_rows_are_copied_and_are_there_octet_by_octet(postgres_database, made, copies):
    database = made(postgres_database)
    rows = [("é", 1, 5, 0, bytes(range(256)) * 500), ("a", 0, NEVER, 1, b""), ("b", 7, NEVER, 0, memoryview(PIECE))]
    assert await database.unit(insert(*rows)) == 3
    assert copies == ["content_chunk"]
    assert await database.read(stored) == sorted((*row[:4], bytes(row[4])) for row in rows)


@pytest_twisted.ensureDeferred
async def test_small_rows_are_a_statement(postgres_database, made, copies):
    database = made(postgres_database)
    assert await database.unit(insert(("a", 0, NEVER, 0, b"small"))) == 1
    assert not copies


@pytest_twisted.ensureDeferred
async def test_more_than_a_connection_takes_at_once_is_copied_while_others_work(postgres_database, made, copies):
    database = made(postgres_database)
    copying = start(database.unit(insert(*pieces("a", 100))))
    await until(lambda: copies)
    assert await database.unit(file("meanwhile")) == 1
    assert await soon(copying) == 100
    assert await database.read(statement("select sum(length(data)) from content_chunk")) == (100 * len(PIECE),)


@pytest_twisted.ensureDeferred
async def test_nothing_and_what_cannot_be_stored_are_what_they_are_in_a_statement(postgres_database, made, copies):
    database = made(postgres_database)

    async def work(tx):
        await tx.execute('create temporary table odd (data bytea, words text collate "C", number bigint)')
        texts = (None, "a\x00b", "c\udcffd", "ok ?%s%", "")
        await tx.insert("odd", ("words", "data", "number"), [(text, PIECE, None) for text in texts])
        return await tx.rows("select words, number, length(data) from odd")

    mended = (None, "a\ufffdb", "c\ufffdd", "ok ?%s%", "")
    assert await database.unit(work) == [(text, None, len(PIECE)) for text in mended]
    assert copies == ["odd"]


@pytest_twisted.ensureDeferred
async def test_a_column_whose_type_is_not_known_is_left_to_a_statement(postgres_database, made, copies):
    database = made(postgres_database)

    async def work(tx):
        await tx.execute("create temporary table odd (data bytea, much numeric)")
        await tx.insert("odd", ("data", "much"), [(PIECE, 2)])
        return await tx.row("select length(data), much from odd")

    assert await database.unit(work) == (len(PIECE), 2)
    assert not copies


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_taken_is_the_same_error_and_the_connection_stays(postgres_database, made):
    database = made(postgres_database, pool=1)
    (backend,) = await database.read(statement("select pg_backend_pid()"))
    await database.unit(insert(*pieces("a")))

    async def work(tx):
        await file("never")(tx)
        await tx.insert("content_chunk", COLUMNS, [*pieces("b"), *pieces("a")])

    with pytest.raises(psycopg2.errors.UniqueViolation, match="content_chunk_never_pkey"):
        await database.unit(work)
    assert await database.read(statement("select count(*) from content_chunk")) == (4,)
    assert await database.read(spools) == set()
    assert await database.read(statement("select pg_backend_pid()")) == (backend,)


@pytest_twisted.ensureDeferred
async def test_a_rule_of_the_schema_is_not_taken_for_a_conflict(postgres_database, made):
    database = made(postgres_database)

    async def work(tx):
        await tx.execute("create temporary table odd (data bytea, number int check (number < 5))")
        await tx.insert("odd", ("data", "number"), [(PIECE, 7)])

    with pytest.raises(psycopg2.errors.CheckViolation, match="odd_number_check"):
        await database.unit(work)


@pytest_twisted.ensureDeferred
async def test_a_value_that_does_not_fit_fails_the_unit_and_nothing_else(postgres_database, made):
    database = made(postgres_database, pool=1)
    (backend,) = await database.read(statement("select pg_backend_pid()"))
    with pytest.raises(struct.error):
        await database.unit(insert(*pieces("a"), ("a", 2**40, NEVER, 0, PIECE)))
    with pytest.raises(ValueError, match="zip"):
        await database.unit(insert(*pieces("a"), ("a", 9)))
    assert await database.read(stored) == []
    assert await database.read(statement("select pg_backend_pid()")) == (backend,)


class Relay(ProxyServer):
    """Between us and PostgreSQL, a line that breaks, or goes silent, after so many octets to the server."""

    def dataReceived(self, data):
        factory = self.factory
        if factory.left is not None:
            factory.left -= len(data)
            if factory.left < 0:
                if factory.breaks:
                    factory.left = None
                    self.transport.abortConnection()
                return
        ProxyServer.dataReceived(self, data)


class ToServerFactory(ProxyClientFactory):
    protocol = ProxyClient
    noisy = False


@pytest.fixture
def relay(postgres, postgres_database):
    factory = Factory.forProtocol(Relay)
    factory.host, factory.port, factory.left, factory.breaks = "127.0.0.1", postgres.port, None, True
    Relay.clientProtocolFactory = ToServerFactory
    port = pytest_twisted.blockon(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory))
    factory.url = postgres_database.replace(f":{postgres.port}/", f":{port.getHost().port}/")
    yield factory
    pytest_twisted.blockon(port.stopListening())


@pytest.mark.parametrize("octets", [10, 400, 5_000, 70_000, 500_000, 1_000_000])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks_in_the_middle_is_a_unit_that_is_run_again(relay, made, octets):
    database = made(relay.url)
    await database.unit(file("first"))
    relay.left = octets
    runs = []

    async def work(tx):
        runs.append(1)
        return await tx.insert("content_chunk", COLUMNS, pieces("a"))

    assert await soon(start(database.unit(work))) == 4
    assert len(runs) == 2 or octets == 10  # then it broke before the unit had begun
    assert await database.read(statement("select count(*), sum(length(data)) from content_chunk")) == (
        4,
        4 * len(PIECE),
    )
    await database.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_takes_nothing_more_is_given_up_in_time(relay, made):
    database = made(relay.url, answer=1.0, patience=0.5, wait=1.0, connect=0.5)
    await database.unit(file("first"))
    relay.breaks, relay.left = False, 100_000
    with pytest.raises(DatabaseUnavailable):
        await soon(start(database.unit(insert(*pieces("a", 64)))))
    await database.stop()


@pytest_twisted.ensureDeferred
async def test_giving_up_at_any_moment_is_quiet_and_keeps_nothing_that_was_not_committed(postgres_database, made):
    database = made(postgres_database, pool=2)
    work = insert(*pieces("a", 8))
    for passes in range(40):
        unit = start(database.unit(work))
        done = []
        unit.addBoth(done.append)
        for _ in range(passes):
            await turn()
        if done:
            break
        unit.cancel()
        await until(lambda done=done: done)
        done[0].trap(CancelledError)
        kept = await database.read(statement("select count(*) from content_chunk"))
        if kept == (8,):
            break  # COMMIT was on its way
        assert kept == (0,)
    assert passes > 3
    await database.unit(insert(*pieces("b", 8)))


def turn():
    """One pass of the reactor."""
    passed = Deferred()
    reactor.callLater(0, passed.callback, None)
    return passed


@given(
    st.lists(
        st.tuples(
            st.none() | st.text(max_size=20),
            st.none() | st.integers(-(2**31), 2**31 - 1),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.binary(max_size=40),
        ),
        max_size=8,
    ),
    st.integers(1, 200),
)
def test_rows_in_binary_can_be_read_back(rows, gather):
    usual, postgres_copy.GATHER = postgres_copy.GATHER, gather
    try:
        data = b"".join(postgres_copy.encoded(rows, (TEXT, INT4, INT8, BYTEA)))
    finally:
        postgres_copy.GATHER = usual
    assert data[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    at = 19
    for row in rows:
        assert struct.unpack_from("!h", data, at) == (4,)
        at += 2
        for value, form in zip(row, (None, "!i", "!q", None), strict=True):
            (length,) = struct.unpack_from("!i", data, at)
            at += 4
            raw = data[at : at + max(length, 0)]
            at += len(raw)
            if value is None:
                assert length == -1
            elif form:
                assert struct.unpack(form, raw) == (value,)
            else:
                wanted = value.replace("\0", "\ufffd").encode() if isinstance(value, str) else value
                assert raw == wanted
    assert data[at:] == b"\xff\xff"


def test_what_pays_is_counted_in_octets_of_bytes_of_one_row():
    assert not postgres_copy.pays([("x" * 100_000, 1, None, os.urandom(1000))])
    assert not postgres_copy.pays([(1, b"x" * 20_000), (2, memoryview(b"x" * 20_000))])
    assert postgres_copy.pays([(1, b"x"), (2, memoryview(b"x" * 40_000))])
