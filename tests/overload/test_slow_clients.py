"""Clients that dribble, stall or only hold a connection, at a real process: it stays small, and serves others.

Their ends (a command within five minutes, a handshake within thirty seconds, a PROXY header within five) are tested on
a clock in ``tests/smtp`` and ``tests/net``; here they are still there while somebody else is served.
"""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from greedy import Crowd, Table, line, polite
from running import Running, until

CROWD = 200
IDLE, LEAST = 20_000, 15_000
"""Connections, and how many where a process may not open so many files."""
TO = "inbox@mailfarm.test"
DRIBBLES = 10
MIB = 1 << 20
PROXY = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x30\x39\x00\x19"

Tell = Callable[[str, object], None]


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with Running(
        MAILFARM_MX_PROXY_FROM="127.0.0.0/8", MAILFARM_SUBMISSION_MAX_CONNECTIONS="21000", MAILFARM_LOG_LEVEL="error"
    ) as made:
        polite(made.port("smtp", "capture"), TO)
        yield made


def hello_tls() -> bytes:
    """A ClientHello, whole."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="mx.example").do_handshake()
    return outgoing.read()


def greeted(*commands: bytes) -> Callable[[socket.socket], None]:
    """A connection on which these were said, and their replies read."""

    def talk(sock: socket.socket) -> None:
        line(sock)
        for command in commands:
            sock.sendall(command + b"\r\n")
            line(sock)

    return talk


EHLO = b"EHLO slow.example"
TO_DATA = (EHLO, b"MAIL FROM:<a@shop.example>", b"RCPT TO:<" + TO.encode() + b">", b"DATA")
PHASES: dict[str, tuple[tuple[str, ...], Callable[[socket.socket], None] | None, bytes, bytes]] = {
    "before EHLO": (("smtp", "capture"), None, b"E", b"H"),
    "in a command": (("smtp", "capture"), greeted(EHLO), b"MAIL FROM:<", b"a"),
    "in the content": (("smtp", "capture"), greeted(*TO_DATA), b"Subject: ", b"x"),
    "in AUTH": (("smtp", "capture"), greeted(EHLO, b"AUTH PLAIN"), b"A", b"A"),
    "in the PROXY header": (("mx",), None, PROXY[:5], b""),
    "in the handshake, implicit TLS": (("smtp", "tls"), None, hello_tls()[:40], b"\x00"),
    "in the handshake, STARTTLS": (("smtp", "starttls"), greeted(EHLO, b"STARTTLS"), hello_tls()[:40], b"\x00"),
    "silent after STARTTLS": (("smtp", "starttls"), greeted(EHLO, b"STARTTLS"), b"", b""),
    "silent, implicit TLS": (("smtp", "tls"), None, b"", b""),
}


@pytest.mark.parametrize("phase", PHASES)
def test_who_sends_an_octet_at_a_time_costs_little_and_holds_up_nobody(
    process: Running, phase: str, record_property: Tell
) -> None:
    path, talk, first, octet = PHASES[phase]
    port = process.port(*path)
    table = Table(process, record_property)
    with Crowd(port, CROWD, first, talk) as crowd:
        slowest = 0.0
        for _ in range(DRIBBLES):
            if octet:
                assert crowd.drip(octet) == CROWD
            slowest = max(slowest, polite(process.port("smtp", "capture"), TO))
        slowest = max(slowest, polite(process.port("mx"), TO, PROXY))
        table.say("connections", CROWD)
        table.say("others, slowest mail, s", round(slowest, 3))
        table.grown(CROWD * 256 * 1024)
    polite(process.port("smtp", "capture"), TO)


def test_who_does_not_end_its_proxy_header_is_closed(process: Running, record_property: Tell) -> None:
    with Crowd(process.port("mx"), CROWD, PROXY[:5]) as crowd:
        began = time.monotonic()
        until(lambda: crowd.ended() == CROWD, 30, 0.2)
        Table(process, record_property).say("all closed after, s", round(time.monotonic() - began, 1))


def test_twenty_thousand_idle_connections(process: Running, record_property: Tell) -> None:
    """Or nearly, where a process may open no more files than that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if (idle := min(IDLE, hard - 1000)) < LEAST:
        pytest.skip(f"a process may open {hard} files: ulimit -Hn {LEAST + 1000}")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = process.port("smtp", "capture")
    table = Table(process, record_property)
    crowd = Crowd(port, 0)
    try:
        while len(crowd.open) < idle:
            some = Crowd(port, 250)
            crowd.open += some.open
            for one in some.open:
                line(one)
                one.sendall(EHLO + b"\r\n")
            for one in some.open:
                line(one)
        slowest = max(polite(port, TO) for _ in range(10))
        table.say("connections", len(crowd.open))
        table.say("others, slowest mail, s", round(slowest, 3))
        table.grown(idle * 16 * 1024)
        assert crowd.drip(b"\n") == idle
    finally:
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    polite(port, TO)
