"""Clients that send without end, or never read, at a real process: it stays small, and serves others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from greedy import Crowd, Flood, Table, line, polite
from running import Running, until
from websocket import WebSocket

from mailfarm.sdk import Farm

TO = "inbox@mailfarm.test"
EHLO = b"EHLO greedy.example\r\n"
MIB = 1 << 20
RECIPIENTS = 100_000

Tell = Callable[[str, object], None]


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with Running(MAILFARM_LOG_LEVEL="error") as made:
        polite(made.port("smtp", "capture"), TO)
        yield made


FLOODS = {
    "RSET": b"RSET\r\n",
    "NOOP": b"NOOP\r\n",
    "transactions that are given up": b"MAIL FROM:<a@shop.example>\r\nRCPT TO:<inbox@mailfarm.test>\r\nRSET\r\n",
    "EHLO": EHLO,
}


@pytest.mark.parametrize("words", FLOODS)
def test_a_flood_of_commands_that_is_read_holds_up_nobody(process: Running, words: str, record_property: Tell) -> None:
    port = process.port("smtp", "capture")
    table = Table(process, record_property)
    floods = [Flood(port, EHLO, FLOODS[words] * 500, reads=True) for _ in range(4)]
    for flood in floods:
        flood.start()
    until(lambda: all(flood.heard > MIB // 4 for flood in floods), 30)
    slowest = max(polite(port, TO) for _ in range(5))
    sent = sum(flood.sent for flood in floods)
    for flood in floods:
        flood.stop()
    table.say("sent, MiB, on 4 connections", round(sent / MIB, 1))
    table.say("others, slowest mail, s", round(slowest, 3))
    table.grown(16 * MIB)


def test_a_flood_of_commands_that_are_none_ends_with_421(process: Running, record_property: Tell) -> None:
    flood = Flood(process.port("smtp", "capture"), EHLO, b"XYZZY\r\n" * 1000, reads=True, most=64 * MIB)
    flood.start()
    flood.join(30)
    assert not flood.is_alive()
    flood.stop()
    assert flood.sent < 64 * MIB
    assert flood.heard < 8192
    polite(process.port("smtp", "capture"), TO)


def test_a_hundred_thousand_recipients_in_one_transaction(process: Running, record_property: Tell) -> None:
    port = process.port("smtp", "capture")
    table = Table(process, record_property)
    commands = b"RCPT TO:<inbox@mailfarm.test>\r\n" * 1000
    flood = Flood(
        port, EHLO + b"MAIL FROM:<a@shop.example>\r\n", commands, reads=True, most=RECIPIENTS // 1000 * len(commands)
    )
    flood.start()
    slowest = 0.0
    while flood.is_alive():
        slowest = max(slowest, polite(port, TO))
    flood.stop()
    table.say("recipients", RECIPIENTS)
    table.say("others, slowest mail, s", round(slowest, 3))
    table.grown(16 * MIB)
    assert flood.heard > 20 * RECIPIENTS, "each was answered"
    assert b"452 4.5.3" in flood.last


@pytest.mark.parametrize("words", ["NOOP", "EHLO"])
def test_who_never_reads_its_replies_is_not_read_any_more(process: Running, words: str, record_property: Tell) -> None:
    port = process.port("smtp", "capture")
    table = Table(process, record_property)
    floods = [Flood(port, EHLO, FLOODS[words] * 1000, reads=False) for _ in range(10)]
    for flood in floods:
        flood.start()
    until(lambda: all(flood.stalled.is_set() for flood in floods), 60)
    table.say("sent, MiB, on 10 connections", round(sum(flood.sent for flood in floods) / MIB, 1))
    table.say("others, slowest mail, s", round(max(polite(port, TO) for _ in range(5)), 3))
    table.grown(20 * MIB)
    for flood in floods:
        flood.stop()


def http(process: Running) -> int:
    return int(process.url.rstrip("/").rpartition(":")[2])


def request(process: Running, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{http(process)}", *headers, "", ""]).encode()


def test_who_asks_the_api_and_never_reads_holds_no_memory(process: Running, record_property: Tell) -> None:
    content = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 50_000
    with Farm(process.url) as farm:
        box = farm.create_mailbox()
        with socket.create_connection(("127.0.0.1", process.port("smtp", "capture")), 30) as sock:
            line(sock)
            for words in (EHLO, b"MAIL FROM:<>\r\n", f"RCPT TO:<{box.address}>\r\n".encode(), b"DATA\r\n"):
                sock.sendall(words)
                line(sock)
            sock.sendall(content + b".\r\n")
            assert line(sock).startswith(b"250")
        message = box.wait_for(subject="large", timeout=30)
        path = f"/v1/messages/{message.id}/raw"
        table = Table(process, record_property)
        # and a hundred more questions behind each, which wait for their turn
        asked = request(process, path) * 100
        with Crowd(http(process), 100, asked) as crowd:
            for one in crowd.open[:3]:
                assert one.recv(12) == b"HTTP/1.1 200"
            for _ in range(5):
                assert farm.mailbox(box.address).id == box.id
            table.say("others, slowest mail, s", round(polite(process.port("smtp", "capture"), box.address), 3))
            table.say("asked for, MiB, on 100 connections", 100 * 100 * len(content) // MIB)
            table.grown(150 * MIB)  # two pieces of content each, and what the kernel has not taken


@pytest.mark.parametrize("kind", ["SSE", "WebSocket"])
def test_who_follows_a_mailbox_and_never_reads_holds_up_no_other_follower(
    process: Running, kind: str, record_property: Tell
) -> None:
    with Farm(process.url) as farm:
        box = farm.create_mailbox()
        table = Table(process, record_property)
        events = f"ws://127.0.0.1:{http(process)}/v1/events"
        stream = request(process, f"/v1/mailboxes/{box.id}/events", "Accept: text/event-stream")
        deaf: list[WebSocket] = []
        with Crowd(http(process), 100 if kind == "SSE" else 0, stream) as crowd, WebSocket(events) as reader:
            for one in crowd.open:
                assert one.recv(12) == b"HTTP/1.1 200"
            for _ in range(0 if kind == "SSE" else 100):
                deaf.append(WebSocket(events))
                deaf[-1].say(op="subscribe", mailbox=box.id)
            reader.say(op="subscribe", mailbox=box.id)
            reader.hear("subscribed")
            with socket.create_connection(("127.0.0.1", process.port("smtp", "capture")), 30) as sock:
                line(sock)
                sock.sendall(EHLO)
                line(sock)
                subject = b"s" * 900
                for _ in range(1000):
                    sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<%b>\r\nDATA\r\n" % box.address.encode())
                    for _ in range(3):
                        line_of(sock)
                    sock.sendall(b"Subject: " + subject + b"\r\n\r\nx\r\n.\r\n")
                    assert line_of(sock).startswith(b"250")
            for _ in range(1000):
                reader.hear("filed")
            table.say("events to 100 that read nothing, 100 that would, MiB", 100 * 1000 // 1024)
            table.grown(64 * MIB)
        for each in deaf:
            each.close()


def line_of(sock: socket.socket) -> bytes:
    """One line, octet by octet: what follows it is the next reply."""
    said = b""
    while not said.endswith(b"\n"):
        data = sock.recv(1)
        assert data, said
        said += data
    return said
