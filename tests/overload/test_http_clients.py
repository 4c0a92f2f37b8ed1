"""HTTP clients that hold, flood, dribble or never read, at a real process: it stays small, and serves others."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from greedy import WITHIN, Crowd, Table, line, polite
from running import Running, Service, until
from websocket import WebSocket

from mailfarm.sdk import Farm

IDLE = 15_000
MIB = 1 << 20
TO = "inbox@mailfarm.test"
GROWN = 200
"""MiB of a process whose port holds all that it may of answers, 64 MiB: memory comes back to it in pieces."""

Tell = Callable[[str, object], None]


class Impatient(Running):
    """Its deadlines are three seconds, so that a test can wait for them."""

    program = (sys.executable, str(Path(__file__).with_name("impatient.py")))


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with Running(
        MAILFARM_API_MAX_CONNECTIONS=str(IDLE + 10), MAILFARM_LIVE_LISTEN="127.0.0.1:0", MAILFARM_LOG_LEVEL="error"
    ) as made:
        polite(made.port("smtp", "capture"), TO)
        assert served(http(made))[0] == 200
        yield made


def http(process: Running) -> int:
    return process.port("http")


def asked(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def answer(sock: socket.socket) -> tuple[int, bytes]:
    """The next answer: its status and head. Its body is read too, if its length is said."""
    said = b""
    while b"\r\n\r\n" not in said:
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"closed after {said!r}")
        said += data
    head, _, body = said.partition(b"\r\n\r\n")
    for field in head.lower().split(b"\r\n"):
        if field.startswith(b"content-length:"):
            while len(body) < int(field.partition(b":")[2]):
                data = sock.recv(65536)
                assert data
                body += data
    return int(head.split(b" ")[1]), head


def served(port: int, path: str = "/v1/health") -> tuple[int, bytes, float]:
    """Ask on a connection of its own: status, head, seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), WITHIN) as sock:
        sock.sendall(asked(path, "Connection: close"))
        status, head = answer(sock)
    return status, head, time.monotonic() - began


def slowest(process: Running) -> float:
    """Seconds of the slowest of some requests of others, all of which are answered."""
    answers = [served(http(process)) for _ in range(5)]
    assert {status for status, _, _ in answers} == {200}
    return round(max(seconds for _, _, seconds in answers), 3)


def letter(process: Running, lines: int) -> tuple[str, str]:
    """The ids of a mailbox and of a message with so many lines in it."""
    with Farm(process.url) as farm:
        box = farm.create_mailbox()
        with socket.create_connection(("127.0.0.1", process.port("smtp", "capture")), 30) as sock:
            line(sock)
            for words in (b"EHLO x", b"MAIL FROM:<>", b"RCPT TO:<%b>" % box.address.encode(), b"DATA"):
                sock.sendall(words + b"\r\n")
                line(sock)
            sock.sendall(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * lines + b".\r\n")
            assert line(sock).startswith(b"250")
        return box.id, box.wait_for(subject="large", timeout=30).id


def test_fifteen_thousand_kept_connections_and_503_above_the_cap(process: Running, record_property: Tell) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < IDLE + 1000:
        pytest.skip(f"a process may open {hard} files: ulimit -Hn {IDLE + 1000}")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    table = Table(process, record_property)
    crowd = Crowd(http(process), 0)
    began = time.monotonic()
    try:
        while len(crowd.open) < IDLE:
            some = Crowd(http(process), 250, asked("/healthz"))
            crowd.open += some.open
            for one in some.open:
                assert answer(one)[0] == 200
        table.say("kept connections, made in, s", f"{len(crowd.open)}, {time.monotonic() - began:.1f}")
        table.say("others, slowest request, s", slowest(process))
        table.say("others, slowest mail, s", round(polite(process.port("smtp", "capture"), TO), 3))
        table.grown(IDLE * 12 * 1024)
        crowd.open += Crowd(http(process), 10).open
        until(lambda: served(http(process))[0] == 503, 20)
        status, head, _ = served(http(process))
        assert status == 503
        assert b"Retry-After: 2" in head
        assert b"application/problem+json" in head
        # so many are told so; those above them are closed without a word
        with Crowd(http(process), 150) as refused:
            until(lambda: refused.ended() >= 50, 20)
    finally:
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: served(http(process))[0] == 200, 20)


@pytest.mark.parametrize("kind", ["raw", "page"])
def test_hundreds_that_never_read_cost_no_more_than_a_port_may_hold(
    process: Running, kind: str, record_property: Tell
) -> None:
    _, message = letter(process, 10_000 if kind == "raw" else 3000)
    path = f"/v1/messages/{message}" + ("/raw" if kind == "raw" else "")
    table = Table(process, record_property)
    with Crowd(http(process), 0) as crowd:
        for _ in range(10 if kind == "raw" else 3):
            crowd.open += Crowd(http(process), 100, asked(path) * 100, room=4096).open
            served(http(process))
        table.say("others, slowest request, s", slowest(process))
        table.say("connections, asked for 100 times each", len(crowd.open))
        table.say("cut for want of room", metric(process, 'mailfarm_api_http_cut_total{why="memory"}'))
        table.grown(GROWN * MIB)
    assert slowest(process) < WITHIN


def test_many_requests_in_one_packet(process: Running, record_property: Tell) -> None:
    table = Table(process, record_property)
    with Crowd(http(process), 20) as crowd:
        for one in crowd.open:
            one.settimeout(0.2)
            with pytest.raises(TimeoutError):
                one.sendall(asked("/app.js") * 1_000_000)
        table.say("others, slowest request, s", slowest(process))
        table.grown(32 * MIB)
    with socket.create_connection(("127.0.0.1", http(process)), WITHIN) as sock:
        sock.sendall(asked("/healthz") * 500)
        said = b""
        while said.count(b"HTTP/1.1 200") < 500 or not said.endswith(b"ok\n"):
            data = sock.recv(65536)
            assert data
            said += data


def test_bodies_that_are_not_ended_are_bounded_together(process: Running, record_property: Tell) -> None:
    table = Table(process, record_property)
    start = asked("/v1/mailboxes", "Content-Type: application/json", f"Content-Length: {MIB}", method="POST")
    with Crowd(http(process), 300) as crowd:
        for one in crowd.open:
            try:
                one.sendall(start + b" " * (MIB - 1))
            except OSError:  # others were given its room
                continue
        table.say("others, slowest request, s", slowest(process))
        table.say("sent, MiB, on 300 connections", 300)
        table.grown(100 * MIB)


def test_a_websocket_that_pings_and_never_reads(process: Running, record_property: Tell) -> None:
    table = Table(process, record_property)
    ping = b"\x89\xfd" + os.urandom(4) + b"x" * 125
    sockets = [WebSocket(f"ws://127.0.0.1:{http(process)}/v1/events") for _ in range(10)]
    sent = 0
    for each in sockets:
        each._socket.settimeout(0.5)
        until_, data = time.monotonic() + 1.0, ping * 1000
        try:
            while time.monotonic() < until_:
                sent += each._socket.send(data)
        except OSError:
            pass
    table.say("sent, MiB, on 10 connections", sent // MIB)
    table.say("others, slowest request, s", slowest(process))
    table.grown(32 * MIB)
    for each in sockets:
        each.close()


def test_a_websocket_that_sends_large_messages_is_not_read_ahead(process: Running, record_property: Tell) -> None:
    box, _ = letter(process, 1)
    table = Table(process, record_property)
    text = b'{"op": "subscribe", "mailbox": "%b", "after": 0}' % box.encode()
    large = text + b" " * (60_000 - len(text))
    frame = b"\x81\xfe" + struct.pack(">H", len(large)) + b"\x00" * 4 + large
    sockets = [WebSocket(f"ws://127.0.0.1:{http(process)}/v1/events") for _ in range(50)]
    for each in sockets:
        each._socket.settimeout(0.1)
        try:
            for _ in range(100):
                each._socket.sendall(frame)
        except OSError:
            pass
    table.say("others, slowest request, s", slowest(process))
    table.grown(50 * MIB)
    for each in sockets:
        each.close()


SLOW: dict[str, tuple[bytes, bytes]] = {
    "says nothing": (b"", b""),
    "kept, and asks no more": (asked("/healthz"), b""),
    "a head an octet at a time": (b"GET / HTTP/1.1\r\nX: ", b"x"),
    "header after header": (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
    "a body an octet at a time": (asked("/v1/mailboxes", "Content-Length: 1000", method="POST"), b" "),
    "a chunk an octet at a time": (asked("/v1/mailboxes", "Transfer-Encoding: chunked", method="POST"), b"1"),
}


def test_who_holds_a_connection_or_never_reads_is_cut_in_time(record_property: Tell) -> None:
    with Impatient(MAILFARM_LOG_LEVEL="error") as process:
        box, message = letter(process, 100_000)
        table = Table(process, record_property)
        port = http(process)
        deaf = {
            "a message": asked(f"/v1/messages/{message}/raw"),
            "a message, and closes": asked(f"/v1/messages/{message}/raw", "Connection: close"),
            "its JSON, again and again": asked(f"/v1/messages/{message}") * 50,
        }
        crowds = {name: (Crowd(port, 20, first), octet) for name, (first, octet) in SLOW.items()}
        unread = {name: Crowd(port, 20, first, room=4096) for name, first in deaf.items()}
        listens = Crowd(port, 1, asked(f"/v1/mailboxes/{box}/events", "Accept: text/event-stream"))
        began = time.monotonic()
        while any(len(crowd.open) for crowd, _ in crowds.values()) and time.monotonic() < began + 30:
            for crowd, octet in crowds.values():
                if octet:
                    crowd.drip(octet)
                elif crowd.ended() == len(crowd.open):
                    crowd.close()
            served(port)
            time.sleep(0.05)  # the pace of those that drip
        for name, (crowd, _) in crowds.items():
            assert not crowd.open, name
        table.say("slow ones were all closed after, s", round(time.monotonic() - began, 1))
        cut = 20 * len(unread)
        until(lambda: metric(process, 'mailfarm_api_http_cut_total{why="unread"}') == cut, 30, 0.2)
        table.say("those that never read after, s", round(time.monotonic() - began, 1))
        assert metric(process, 'mailfarm_api_http_cut_total{why="late"}') == 20 * 4
        assert listens.ended() == 0, "a stream on which nothing happens is nobody's fault"
        for crowd in unread.values():
            crowd.close()
        listens.close()


def metric(process: Running, name: str) -> float:
    with socket.create_connection(("127.0.0.1", http(process)), WITHIN) as sock:
        sock.sendall(asked("/metrics", "Connection: close"))
        said = b""
        while data := sock.recv(65536):
            said += data
    found = next(line for line in said.decode().splitlines() if line.startswith(f"{name} "))
    return float(found.split()[-1])


def test_the_port_of_live_and_the_one_about_the_process_have_caps(tmp_path: Path, record_property: Tell) -> None:
    with Running(MAILFARM_LIVE_LISTEN="127.0.0.1:0", MAILFARM_LIVE_MAX_CONNECTIONS="20") as process:
        port = process.port("live")
        socket_ = WebSocket(f"ws://127.0.0.1:{port}/v1/events")
        with Crowd(port, 19):
            until(lambda: served(port, "/healthz")[0] == 503, 20)
            with pytest.raises(ConnectionRefusedError, match="503"):
                WebSocket(f"ws://127.0.0.1:{port}/v1/events")
        until(lambda: served(port, "/healthz")[0] == 200, 20)
        socket_.close()
    nowhere = {"MAILFARM_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "MAILFARM_CACHE_URL": "redis://127.0.0.1:1"}
    service = Service("sweep", nowhere, tmp_path / "log")
    service.begin()
    try:
        until(lambda: service.status("healthz")[0] == 503, 30)
        port = int(service.status_at.rpartition(":")[2])
        with Crowd(port, 100):
            until(lambda: b"too-many" in served_body(port), 20)
        until(lambda: b"starting" in served_body(port), 20)
    finally:
        service.kill()


def served_body(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), WITHIN) as sock:
        sock.sendall(asked("/healthz", "Connection: close"))
        said = b""
        while data := sock.recv(65536):
            said += data
    return said
