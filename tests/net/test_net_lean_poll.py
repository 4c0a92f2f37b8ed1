"""The reactor's own pass: the same events as Twisted's, whatever a protocol does in them.

Twisted's own tests are what it is held against; these are what they do not see. Each runs a reactor of its own.
"""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

if not hasattr(select, "epoll"):
    pytest.skip("there is no epoll here", allow_module_level=True)

PROGRAM = """
import socket
import sys
from mailfarm.net import lean_poll
assert lean_poll.install() and not lean_poll.install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from mailfarm.net.fast_tcp import FastEndpoint
said = []
globalLogPublisher.addObserver(lambda event: said.append(event) if event["log_level"].name == "critical" else None)
assert type(reactor).__name__ == "LeanEPollReactor"

class Server(Protocol):
    def dataReceived(self, data):
        if data == b"raise":
            raise RuntimeError("by a protocol")
        if data == b"exit":
            raise SystemExit(3)
        if data == b"close the others":
            for each in servers:
                if each is not self:
                    each.transport.abortConnection()
        self.transport.write(data.upper())
    def connectionMade(self):
        servers.append(self)
    def connectionLost(self, reason):
        lost.append(self)

servers, lost = [], []

def clients(port, count):
    made = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(count)]
    for each in made:
        each.settimeout(10)
    return made

def run(work):
    def begin(port):
        from twisted.internet.threads import deferToThread
        deferToThread(work, port).addBoth(ended.append).addBoth(lambda _: port.stopListening()).addBoth(
            lambda _: reactor.stop())
    ended = []
    endpoint = FastEndpoint(reactor, "127.0.0.1", 0)
    reactor.callWhenRunning(lambda: endpoint.listen(Factory.forProtocol(Server)).addCallback(begin))
    reactor.run()
    assert ended == [None], ended
"""


def play(work: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + work], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_comes_in_is_answered() -> None:
    play("""
def work(port):
    many = clients(port, 200)
    for n, each in enumerate(many):
        each.sendall(b"hello %d" % n)
    assert [each.recv(100) for each in many] == [b"HELLO %d" % n for n in range(200)]
    for each in many:
        each.close()
run(work)
assert len(lost) == 200 and not said
""")


@pytest.mark.parametrize("word", ["raise", "exit"])
def test_what_a_protocol_raises_cuts_its_connection_alone(word: str) -> None:
    play(f"""
def work(port):
    one, other = clients(port, 2)
    one.sendall({word.encode()!r})
    try:
        assert one.recv(100) == b""
    except ConnectionError:
        pass
    other.sendall(b"still there")
    assert other.recv(100) == b"STILL THERE"
    other.close()
run(work)
assert len(lost) == 2 and len(said) == 1, said
""")


def test_a_connection_that_another_one_ended_in_the_same_pass_is_not_read() -> None:
    play("""
def work(port):
    many = clients(port, 20)
    answers = []
    for each in many:
        try:
            each.sendall(b"close the others")
        except ConnectionError:
            pass
    for each in many:
        try:
            answers.append(each.recv(100))
        except ConnectionError:
            answers.append(b"")
    assert answers.count(b"CLOSE THE OTHERS") >= 1
run(work)
assert len(lost) == 20 and not said, said
""")


def test_a_half_closed_connection_is_still_answered() -> None:
    play("""
def work(port):
    (one,) = clients(port, 1)
    one.sendall(b"last words")
    one.shutdown(socket.SHUT_WR)
    assert one.recv(100) == b"LAST WORDS"
    assert one.recv(100) == b""
run(work)
assert len(lost) == 1 and not said
""")


def test_what_is_to_be_done_before_waiting_is_done_in_the_same_pass() -> None:
    """Also what a timed call asks for, and what such work asks for in its turn; the timers it sets are heard."""
    play("""
order = []
def timed():
    reactor.callLater(0, order.append, "the next pass")
    reactor.before_waiting(first)
    order.append("timed")
def first():
    order.append("first")
    reactor.before_waiting(lambda: order.append("second"))
    reactor.before_waiting(lambda: 1 / 0)
    reactor.before_waiting(sys.exit)
    reactor.before_waiting(lambda: reactor.callLater(0.01, reactor.stop))
reactor.callWhenRunning(reactor.callLater, 0, timed)
reactor.run()
assert order == ["timed", "first", "second", "the next pass"], order
assert len(said) == 2 and "ZeroDivisionError" in str(said[0]["log_failure"]), said
""")


def test_a_timer_set_before_waiting_ends_the_wait() -> None:
    play("""
reactor.callWhenRunning(lambda: reactor.before_waiting(lambda: reactor.callLater(0.01, reactor.stop)))
reactor.run()
""")


def test_who_always_has_more_to_do_before_waiting_keeps_nobody_out() -> None:
    play("""
def endless():
    reactor.before_waiting(endless)
reactor.callWhenRunning(endless)
def work(port):
    (one,) = clients(port, 1)
    one.sendall(b"hello")
    assert one.recv(100) == b"HELLO"
    one.close()
run(work)
""")


def test_a_poll_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from mailfarm.net.lean_poll import LeanEPollReactor

    reactor: Any = LeanEPollReactor()
    real = reactor._poller

    def failing(number: int) -> Callable[..., Any]:
        def poll(*_: Any) -> Any:
            raise OSError(number, "as the system says")

        return poll

    class Poller:
        poll = staticmethod(failing(4))

    monkeypatch.setattr(reactor, "_poller", Poller)
    reactor.doPoll(0)  # EINTR: nothing has happened
    monkeypatch.setattr(Poller, "poll", staticmethod(failing(9)))
    with pytest.raises(OSError, match="as the system says"):
        reactor.doPoll(0)
    monkeypatch.setattr(reactor, "_poller", real)
    for each in reactor.removeAll():
        each.connectionLost(None)
    real.close()
