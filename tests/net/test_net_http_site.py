"""A port of HTTP on a clock: how many connections, how long a request may take, how much may wait to be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from mailfarm.net import http_site
from mailfarm.net.http_channel import IN_A_ROW
from mailfarm.net.http_room import Room
from mailfarm.net.plain_site import PlainSite

GET = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"a" * 1000


class Deaf(StringTransport):
    """A transport whose client takes nothing until ``take`` is called: what Twisted's TCP connection has of it."""

    most_unsent = 1 << 16
    offset = 0
    _tempDataLen = 0

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 1))
        self.dataBuffer = b""
        self.lost = self.aborted = False

    def write(self, data: bytes) -> None:
        self.dataBuffer += data
        if self.producer is not None and len(self.dataBuffer) > self.most_unsent:
            self.producer.pauseProducing()

    def take(self, octets: int = 1 << 40) -> None:
        super().write(self.dataBuffer[:octets])
        self.dataBuffer = self.dataBuffer[octets:]
        if not self.dataBuffer and self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        self.lost = True

    def abortConnection(self) -> None:
        self.aborted = True

    def loseWriteConnection(self) -> None:
        self.lost = True


class Page(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.late: list[Any] = []

    def render(self, request: Any) -> Any:
        self.asked += 1
        if request.path == b"/late":
            self.late.append(request)
            return NOT_DONE_YET
        request.write(ANSWER)
        request.finish()
        return NOT_DONE_YET


class Port:
    """A site on a clock. ``come`` gives a connection's transport and protocol."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.page = Page()
        self.registry = CollectorRegistry()
        options = {"service": "api", "most": 3, "timeout": 30, "registry": self.registry} | options
        self.site = PlainSite(self.page, None, reactor=self.clock, **options)

    def come(self, said: bytes = b"") -> tuple[Any, Any]:
        protocol: Any = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        transport = Deaf()
        protocol.makeConnection(transport)
        if said:
            protocol.dataReceived(said)
        return transport, protocol

    def count(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"mailfarm_api_http_{name}", labels)
        assert value is not None
        return value

    def wait(self, seconds: float) -> None:
        self.clock.pump([1.0] * int(seconds))


@pytest.fixture
def port() -> Port:
    return Port()


def test_above_the_cap_a_connection_hears_503_and_is_closed(port: Port) -> None:
    for _ in range(3):
        port.come()
    transport, protocol = port.come()
    assert not transport.dataBuffer, "nothing before it asks: clients do not look for it"
    protocol.dataReceived(b"G")
    transport.take()
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 2\r\n" in head
    assert b"Connection: close" in head
    assert json.loads(body)["type"] == "/v1/problems/too-many-connections"
    assert transport.lost
    protocol.dataReceived(b"x" * 100_000)  # nobody looks
    assert len(transport.value()) == len(head) + 4 + len(body)
    assert port.page.asked == 0
    assert (port.count("connections"), port.count("refused_total")) == (3, 1)
    port.wait(6)
    assert transport.aborted


def test_a_connection_that_ends_makes_room(port: Port) -> None:
    first = port.come()[1]
    for _ in range(2):
        port.come()
    first.connectionLost(None)
    transport, _ = port.come(GET)
    transport.take()
    assert transport.value().startswith(b"HTTP/1.1 200 ")


def test_so_many_wait_to_be_closed_and_no_more(port: Port) -> None:
    for _ in range(3):
        port.come()
    refused = [port.come()[0] for _ in range(http_site.CLOSING)]
    assert port.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)) is None
    port.wait(6)
    assert all(transport.aborted for transport in refused)


def test_what_others_count_counts(port: Port) -> None:
    crowded = Port(besides=lambda: 3)
    transport, _ = crowded.come(b"G")
    transport.take()
    assert transport.value().startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("path", ["head", "body"])
def test_an_octet_now_and_then_gives_no_more_time(port: Port, path: str) -> None:
    transport, protocol = port.come()
    port.wait(20)
    protocol.dataReceived(b"G" if path == "head" else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")
    for _ in range(29):
        port.wait(1)
        protocol.dataReceived(b"x")
        assert not transport.lost
    port.wait(2)
    assert transport.lost
    transport.take()
    assert b"408 Request Time-out" in transport.value()
    assert b"/v1/problems/request-timeout" in transport.value()
    assert port.count("cut_total", why="late") == 1


def test_who_says_nothing_is_closed_without_a_word(port: Port) -> None:
    transport, protocol = port.come()
    port.wait(31)
    assert transport.lost
    assert not transport.value()
    transport, protocol = port.come(GET)
    transport.take()
    port.wait(20)
    protocol.dataReceived(GET)
    transport.take()
    port.wait(29)
    assert not transport.lost
    port.wait(2)
    assert transport.lost


def test_the_next_request_waits_until_the_answer_before_it_has_left(port: Port) -> None:
    transport, _ = port.come(GET * 10)
    assert port.page.asked == 1
    for asked in range(2, 11):
        transport.take()
        assert port.page.asked == asked
    transport.take()
    assert transport.value().count(b"HTTP/1.1 200") == 10


def test_some_are_answered_in_a_row_then_others_have_their_turn(port: Port) -> None:
    transport, protocol = port.come()
    protocol.transport.write = transport.io.write  # a client that reads
    protocol.dataReceived(GET * 3 * IN_A_ROW)
    assert port.page.asked == IN_A_ROW
    port.clock.advance(0)
    assert transport.value().count(b"HTTP/1.1 200") == 3 * IN_A_ROW


@pytest.mark.parametrize("kept", ["keep-alive", "close"])
def test_who_does_not_read_is_cut(port: Port, kept: str) -> None:
    transport, _ = port.come(GET[:-2] + f"Connection: {kept}\r\n\r\n".encode())
    port.wait(59)
    assert not transport.aborted
    port.wait(6)
    assert transport.aborted
    assert port.count("cut_total", why="unread") == 1


def test_who_reads_slowly_is_not(monkeypatch: pytest.MonkeyPatch, port: Port) -> None:
    monkeypatch.setattr(http_site, "STEP", 100)
    transport, _ = port.come(GET)
    for _ in range(9):
        port.wait(30)
        transport.take(100)
    assert not transport.aborted
    port.wait(70)
    assert transport.aborted


def test_past_the_room_for_answers_who_made_no_progress_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_site, "UNREAD", 4000)
    monkeypatch.setattr(http_site, "STEP", 100)
    port = Port(most=10)
    reads, _ = port.come(GET)
    deaf = [port.come(GET)[0] for _ in range(2)]
    reads.take(200)
    fourth, _ = port.come(GET)
    assert [one.aborted for one in (reads, *deaf, fourth)] == [False, True, False, False]
    assert port.count("cut_total", why="memory") == 1


def test_past_the_room_for_requests_who_began_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_site, "ASKED", 4000)
    port = Port(most=10)
    transports = [port.come(b"G" * 1500)[0] for _ in range(3)]
    assert [one.aborted for one in transports] == [True, False, False]


def test_what_waits_behind_a_request_under_way_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_site, "ASKED", 4000)
    port = Port(most=10)
    transports = [port.come(GET.replace(b"page", b"late") + b"G" * 1500)[0] for _ in range(3)]
    assert [one.aborted for one in transports] == [True, False, False]


def test_a_connection_that_is_cut_while_an_answer_waits_frees_everything(port: Port) -> None:
    transport, protocol = port.come(GET * 2)
    protocol.connectionLost(None)
    transport.take()
    port.wait(100)
    assert port.page.asked == 1
    assert not port.site.connections
    assert not port.clock.getDelayedCalls()


def test_the_room_asks_so_many_whether_they_made_progress() -> None:
    gone: list[int] = []
    room: Room[int] = Room(1000, lambda who: 1, gone.append)
    for number in range(1000):
        room.hold(number, 1)
    room.hold(1000, 5)
    assert gone == [100, 101, 102, 103, 104]
    assert room.octets == 1000
