"""TLS in fewer steps: what comes out is what went in, wherever records and segments are cut, and a bad end is one."""

from __future__ import annotations

import random
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailfarm.net.fast_tls import FastTls, FastTlsFactory
from mailfarm.net.tls import ServerTls, dev_certificate


class Wire:
    """A transport in memory."""

    def __init__(self) -> None:
        self.out = b""
        self.closed = ""

    def write(self, data: bytes) -> None:
        self.out += data

    def loseConnection(self) -> None:
        self.closed = self.closed or "lost"

    def abortConnection(self) -> None:
        self.closed = self.closed or "aborted"

    def taken(self) -> bytes:
        out, self.out = self.out, b""
        return out


class Upper(Protocol):
    transport: Any
    received = b""
    reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.transport.write(data.upper())

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        self.reason = reason


class Pair:
    """A server of ours and a client of Python's, with nothing between them but what ``send`` carries."""

    def __init__(self, tls: ServerTls, version: ssl.TLSVersion, cut: Any) -> None:
        self.server: Any = FastTlsFactory(tls, False, Factory.forProtocol(Upper), Clock()).buildProtocol(None)
        self.above: Upper = self.server.wrappedProtocol
        self.wire = Wire()
        self.server.makeConnection(self.wire)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self.incoming, self.outgoing)
        self.cut = cut
        while True:
            try:
                self.client.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.carry()
        self.carry()

    def carry(self) -> None:
        """What the client has to say to the server, in pieces, and back."""
        data = self.outgoing.read()
        while data:
            piece = max(1, self.cut())
            self.server.dataReceived(data[:piece])
            data = data[piece:]
        self.incoming.write(self.wire.taken())

    def answer(self) -> bytes:
        said = b""
        while True:
            try:
                said += self.client.read(65536)
            except ssl.SSLWantReadError:
                return said


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    folder: Path = tmp_path_factory.mktemp("tls")
    return ServerTls(dev_certificate(folder, "localhost", datetime.now(UTC)))


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@VERSIONS
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 6, 7, 21, 1000, 16_406, 1 << 20])
def test_what_comes_out_is_what_went_in_however_it_is_cut(tls: ServerTls, version: ssl.TLSVersion, piece: int) -> None:
    pair = Pair(tls, version, lambda: piece)
    sent = b""
    for size in (1, 5, 17, 300, 4000):
        words = b"a" * size + b"b"
        pair.client.write(words)
        sent += words
        pair.carry()
        assert pair.answer() == words.upper()
    for size in (1, 2, 3, 40_000):  # several records in one go
        pair.client.write(b"c" * size)
        sent += b"c" * size
    pair.carry()
    assert pair.answer() == b"C" * 40_006
    assert pair.above.received == sent


@VERSIONS
def test_any_cuts_at_all(tls: ServerTls, version: ssl.TLSVersion) -> None:
    for seed in range(20):
        dice = random.Random(seed)
        pair = Pair(tls, version, lambda dice=dice: dice.choice((1, 3, 5, 8, 50, 700, 20_000)))
        sent = b""
        for _ in range(10):
            words = dice.randbytes(dice.choice((1, 2, 30, 5000, 20_000)))
            pair.client.write(words)
            sent += words
            if dice.random() < 0.6:
                pair.carry()
        pair.carry()
        assert pair.above.received == sent
        assert pair.answer() == sent.upper()


@VERSIONS
def test_a_good_bye_is_answered_and_closes(tls: ServerTls, version: ssl.TLSVersion) -> None:
    pair = Pair(tls, version, lambda: 1 << 20)
    pair.client.write(b"last words")
    with pytest.raises((ssl.SSLWantReadError, ssl.SSLSyscallError)):
        pair.client.unwrap()
    pair.carry()
    assert pair.above.received == b"last words"
    assert pair.wire.closed == "lost"
    pair.server.connectionLost(Failure(ConnectionDone()))
    assert pair.above.reason is not None
    assert pair.above.reason.check(ConnectionDone)


@VERSIONS
@pytest.mark.parametrize("garbage", [b"MAIL FROM:<a@b.example>\r\n", b"\xff" * 5, b"\x17\x03\x03\x00\x20" + b"x" * 32])
def test_what_is_no_record_of_this_session_ends_it_at_once(
    tls: ServerTls, version: ssl.TLSVersion, garbage: bytes
) -> None:
    pair = Pair(tls, version, lambda: 1 << 20)
    pair.server.dataReceived(garbage)
    assert pair.wire.closed == "lost"
    pair.server.connectionLost(Failure(ConnectionDone()))
    assert pair.above.reason is not None
    assert not pair.above.reason.check(ConnectionDone)
    assert pair.above.received == b""


def test_records_are_counted_wherever_the_input_is_cut(tls: ServerTls) -> None:
    sizes = [0, 1, 255, 256, 16_640, 7]
    wire = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + b"x" * size for size in sizes)
    ends = [sum(sizes[: n + 1]) + 5 * (n + 1) for n in range(len(sizes))]
    for piece in (1, 2, 3, 4, 5, 6, 100, 261, 5000, len(wire)):
        counting: Any = FastTls(FastTlsFactory(tls, False, Factory.forProtocol(Upper), Clock()), Upper())
        at = counted = 0
        while at < len(wire):
            counted += counting._count(wire[at : at + piece])
            at += piece
            assert counted == sum(end <= at for end in ends)
