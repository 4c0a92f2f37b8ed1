"""A connection's place in the reactor: whoever listens, nothing is told twice, and a number that comes again is not
mistaken."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import pytest_twisted
from postgres_house import file, pause, spools, statement
from spooled_samples import until
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.main import CONNECTION_DONE

from mailfarm.backends import postgres_link
from mailfarm.backends.postgres_watch import Watch


class Listener:
    """Hears on the socket ``own``, and notes it."""

    def __init__(self, own):
        self.own = own
        self.heard = b""
        self.room = 0
        self.lost = 0

    def doRead(self):
        try:
            came = self.own.recv(100)
        except BlockingIOError:
            came = b"?"
        self.heard += came
        return None if came else CONNECTION_DONE

    def doWrite(self):
        self.room += 1

    def connectionLost(self, reason):
        self.lost += 1


class Counting:
    """The reactor; ``told`` what it was told of descriptors."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        real = getattr(reactor, name)
        if name not in ("addReader", "addWriter", "removeReader", "removeWriter"):
            return real

        def tell(who):
            self.told.append(name)
            return real(who)

        return tell


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def watched(pair):
    counting = Counting()
    watch = Watch(counting, pair[0].fileno())
    yield watch, counting.told
    watch.close()
    watch.close()
    assert watch.fileno() == -1


@pytest_twisted.ensureDeferred
async def test_the_reactor_is_told_once_whoever_listens(pair, watched):
    (ours, theirs), (watch, told) = pair, watched
    one, other = Listener(ours), Listener(ours)
    for number in range(10):
        for who in (one, other):
            watch.addReader(who)
            theirs.send(b"%d" % number)
            await until(lambda who=who, number=number: len(who.heard) > number)
            watch.removeReader(who)
    assert one.heard == other.heard == b"0123456789"
    assert told == ["addReader"]


@pytest_twisted.ensureDeferred
async def test_what_comes_while_nobody_listens_waits_and_keeps_the_reactor_at_rest(pair, watched):
    (ours, theirs), (watch, told) = pair, watched
    who = Listener(ours)
    watch.addReader(who)
    watch.removeReader(who)
    theirs.send(b"kept")
    await until(lambda: "removeReader" in told)
    assert who.heard == b""
    watch.addReader(who)
    await until(lambda: who.heard == b"kept")
    assert told == ["addReader", "removeReader", "addReader"]


@pytest_twisted.ensureDeferred
async def test_who_no_longer_waits_for_room_is_not_told_of_it(pair, watched):
    (ours, _), (watch, told) = pair, watched
    who = Listener(ours)
    watch.addWriter(who)
    watch.addWriter(who)
    await until(lambda: who.room > 1)
    watch.removeWriter(who)
    told_of = who.room
    await pause(0.01)
    assert who.room == told_of
    assert told == ["addWriter", "removeWriter"]


@pytest.mark.parametrize("then", ["removeWriter", "close"])
@pytest_twisted.ensureDeferred
async def test_what_comes_together_with_room_may_leave_nobody_who_wants_it(pair, watched, then):
    (ours, theirs), (watch, _) = pair, watched

    class Satisfied(Listener):
        def doRead(self):
            super().doRead()
            watch.removeWriter(self) if then == "removeWriter" else watch.close()

    who = Satisfied(ours)
    theirs.send(b"all that was wanted")
    watch.addWriter(who)
    watch.addReader(who)
    await until(lambda: who.heard)
    await pause(0.01)
    assert who.room == who.lost == 0


@pytest_twisted.ensureDeferred
async def test_a_socket_that_was_closed_beneath_is_not_mistaken_for_the_next_with_its_number(pair, watched):
    """libpq closes the socket of a connection that it finds broken."""
    (ours, theirs), (watch, _) = pair, watched
    old = Listener(ours)
    watch.addReader(old)
    number = ours.fileno()
    again, other_end = socket.socketpair()
    again.setblocking(False)
    ours.close()
    os.dup2(again.fileno(), number)
    again.close()
    with socket.socket(fileno=number) as again, other_end:
        new = Listener(again)
        second = Watch(reactor, number)
        second.addReader(new)
        other_end.send(b"for the new one")
        await until(lambda: new.heard)
        assert old.heard == b""
        watch.close()
        other_end.send(b", still")
        await until(lambda: new.heard == b"for the new one, still")
        second.close()
    assert theirs.recv(10) == b"", "it would be held open"


@pytest_twisted.ensureDeferred
async def test_who_listens_is_told_of_the_end_and_may_listen_again(pair, watched):
    (ours, theirs), (watch, _) = pair, watched
    who = Listener(ours)
    watch.addWriter(who)
    watch.addReader(who)
    theirs.close()
    await until(lambda: who.lost)
    assert who.lost == 1
    watch.addReader(who)
    await until(lambda: who.lost == 2)


@pytest_twisted.ensureDeferred
async def test_nothing_is_watched_that_is_closed(pair, watched):
    (ours, theirs), (watch, told) = pair, watched
    who = Listener(ours)
    watch.addReader(who)
    watch.close()
    watch.addReader(who)
    watch.addWriter(who)
    theirs.send(b"to nobody")
    await pause(0.01)
    assert who.heard == b""
    assert told == ["addReader", "removeReader"]


@pytest_twisted.ensureDeferred
async def test_units_change_nothing_of_what_the_reactor_watches(made, postgres_database, monkeypatch):
    database = made(postgres_database, pool=2)
    await database.start()
    await gatherResults([database.unit(file("the first")), database.unit(file("the second"))])
    await until(lambda: database.pool.idle == 2)
    counting = Counting()
    for name in ("addReader", "addWriter", "removeReader", "removeWriter"):
        monkeypatch.setattr(reactor, name, getattr(counting, name))
    for number in range(10):
        await database.unit(file(f"number {number}"), late=number % 2 == 0)
        assert f"number {number}" in await database.read(spools)
    monkeypatch.undo()
    assert counting.told == []


@pytest_twisted.ensureDeferred
async def test_a_connection_that_ends_leaves_no_descriptor_behind(made, postgres_database):
    database = made(postgres_database)
    await database.start()

    def sockets():
        return sum(os.readlink(f"/proc/self/fd/{number}").startswith("socket:") for number in numbers())

    def numbers():
        return [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]

    await database.unit(file("the first"))
    await until(lambda: database.pool.idle == 1)
    before = sockets()
    await gatherResults([database.unit(statement("select pg_sleep(0.2)")) for _ in range(4)])
    await until(lambda: not database.pool.busy)
    assert sockets() > before
    database.pool.suspect()
    await until(lambda: sockets() < before)


@pytest_twisted.ensureDeferred
async def test_a_connection_without_a_place_is_closed_and_the_next_one_has_it(made, postgres_database, monkeypatch):
    refused = []

    def full(reactor, number):
        refused.append(number)
        raise OSError(errno.EMFILE, "Too many open files")

    database = made(postgres_database)
    monkeypatch.setattr(postgres_link, "Watch", full)
    await database.start()
    await until(lambda: "Too many open files" in database.away)
    monkeypatch.undo()
    await database.unit(file("later"))
    assert refused
    assert not database.away
