"""The load generator counts what was accepted and nothing else, whatever the server does."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from corpus import corpus, dot_stuffed, stamp
from generator import Plan, percentiles
from load import run
from proxyprotocol.v2 import ProxyProtocolV2
from smtp_dialog import Dialog, Options, proxy_header

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GOOD = {
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"DATA": b"354 Go on\r\n",
    b".": b"250 2.0.0 Ok\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN\r\n",
    b"AUTH": b"235 2.7.0 Ok\r\n",
}


@contextmanager
def serving(talk: Talk) -> Iterator[int]:
    """An asyncio server in a thread, for as long as the context lasts; enters as its port."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=2**20)
        stop = asyncio.Event()
        started.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        server.close()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    started: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    port, loop, stop = started[0]
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


class Sink:
    """Answers as ``replies`` say; a reply of None cuts the connection. Keeps what it was given."""

    def __init__(self, replies: dict[bytes, bytes | None] | None = None) -> None:
        self.replies = {**GOOD, **(replies or {})}
        self.contents: list[bytes] = []
        self.commands: list[bytes] = []
        self.connections = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"220 sink\r\n")
        while line := await reader.readline():
            self.commands.append(line)
            verb = line.split()[0].upper()
            reply = self.replies[verb]
            if reply is None:
                return
            writer.write(reply)
            if verb == b"QUIT":
                return
            if verb == b"DATA" and reply.startswith(b"354"):
                self.contents.append(await reader.readuntil(b"\r\n.\r\n"))
                end = self.replies[b"."]
                if end is None:
                    return
                writer.write(end)


def plan(port: int, options: Options | None = None, messages: int = 20, sessions: int = 3, **more: float | str) -> Plan:
    return Plan("127.0.0.1", port, options or Options(), sessions, messages, timeout=5.0, **more)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_good_server_gets_every_message_once(kept: bool, pipelining: bool) -> None:
    sink = Sink()
    with serving(sink.talk) as port:
        result = run(plan(port, Options(("a@x.test", "b@x.test"), kept=kept, pipelining=pipelining), label="t"))
    assert not result.errors
    assert result.messages == len(sink.contents) == len(result.dot) == len(result.whole) == 20
    stamps = sorted(re.findall(rb"Message-ID: <(t-\d+)@", content)[0] for content in sink.contents)
    assert stamps == [stamp("t", number) for number in range(20)]
    assert sorted(result.numbers) == list(range(20))
    assert sink.connections == (3 if kept else 20)
    assert sum(line.startswith(b"RCPT") for line in sink.commands) == 40


def test_each_message_to_the_next_of_the_recipients() -> None:
    sink = Sink()
    with serving(sink.talk) as port:
        result = run(plan(port, Options(("a@x.test", "b@x.test"), one_each=True)))
    assert not result.errors
    given = [line for line in sink.commands if line.startswith(b"RCPT")]
    assert [given.count(b"RCPT TO:<%b@x.test>\r\n" % name) for name in (b"a", b"b")] == [10, 10]


class Dripping:
    """A writer that gives each octet to the kernel by itself."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        for octet in data:
            self._writer.write(bytes([octet]))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("pipelining", [True, False])
def test_replies_an_octet_at_a_time_are_the_same_replies(kept: bool, pipelining: bool) -> None:
    sink = Sink()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sink.talk(reader, Dripping(writer))

    with serving(talk) as port:
        result = run(plan(port, Options(kept=kept, pipelining=pipelining)))
    assert not result.errors
    assert result.messages == len(sink.contents) == 20


def test_large_content_goes_out_in_pieces_and_whole() -> None:
    sink = Sink()
    with serving(sink.talk) as port:
        result = run(plan(port, Options(pipelining=True), messages=4, size="900000", label="t"))
    assert not result.errors
    assert sorted(map(len, sink.contents)) == sorted(len(mail.wire) for mail in corpus("900000")[:4])


def test_several_processes_share_the_work() -> None:
    sink = Sink()
    with serving(sink.talk) as port:
        result = run(plan(port, messages=21, sessions=4), processes=2)
    assert (result.messages, len(sink.contents), len(result.whole)) == (21, 21, 21)
    assert sink.connections == 4


def test_a_paced_run_counts_from_when_a_message_was_due() -> None:
    sink = Sink()
    with serving(sink.talk) as port:
        result = run(plan(port, messages=40, sessions=2, rate=400.0))
    assert not result.errors
    assert result.messages == 40
    assert result.ended - result.began >= 39 / 400


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ({b".": b"250 2.1.5 Ok\r\n"}, "out of order, in answer to end"),
        ({b"MAIL": b"250 2.1.5 Ok\r\n"}, "out of order, in answer to mail"),
        ({b"RCPT": b"354 Go on\r\n"}, "wrong code in answer to rcpt"),
        ({b".": b"451 4.3.0 Later\r\n"}, "wrong code in answer to end: b'451"),
        ({b"RCPT": b"550 5.1.1 Nobody\r\n"}, "wrong code in answer to rcpt"),
        ({b"MAIL": b"250-2.1.0 Ok\r\n251 2.1.0 Ok\r\n"}, "wrong code in answer to mail"),
        ({b"DATA": b"354 Go on\r\n250 2.0.0 Ok\r\n"}, "the content was answered before it was sent"),
        ({b".": b"250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"}, "a reply nobody waits for"),
        ({b".": b"250 2.0.0 Ok\n"}, "without CR LF"),
        ({b".": None}, "connection lost while waiting for the answer to end"),
        ({b"RCPT": None}, "connection lost while waiting for the answer to rcpt"),
        ({b"EHLO": b"500 5.5.1 What?\r\n"}, "wrong code in answer to ehlo"),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_bad_server_is_told_on_and_nothing_is_counted(
    replies: dict[bytes, bytes | None], said: str, pipelining: bool
) -> None:
    with serving(Sink(replies).talk) as port:
        result = run(plan(port, Options(pipelining=pipelining), messages=5, sessions=1))
    assert any(said in error for error in result.errors), result.errors
    # the second of two answers to one message comes when the first was counted already
    assert result.messages == 0 or said == "a reply nobody waits for"


def test_one_bad_answer_does_not_stop_the_rest() -> None:
    sink = Sink()
    seen = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        bad = Sink({b".": b"451 4.3.0 Not now\r\n"})
        await (bad if seen == 2 else sink).talk(reader, writer)

    with serving(talk) as port:
        result = run(plan(port, messages=20))
    assert sum(result.errors.values()) == 1
    assert result.messages == len(sink.contents) == 19


def test_a_server_that_says_nothing_is_an_error_in_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        await reader.read()

    with serving(talk) as port:
        result = run(Plan("127.0.0.1", port, Options(), sessions=1, seconds=0.2, timeout=0.3))
    assert result.errors
    assert all("no answer to ehlo in time" in error for error in result.errors)


def test_no_server_at_all_is_an_error_and_ends() -> None:
    with serving(Sink().talk) as port:
        pass
    result = run(plan(port, messages=5))
    assert result.messages == 0
    assert result.errors


def test_pipelining_needs_to_be_offered() -> None:
    with serving(Sink({b"EHLO": b"250 sink\r\n"}).talk) as port:
        result = run(plan(port, Options(pipelining=True), messages=1, sessions=1))
    assert result.errors["PIPELINING is not offered"]


@pytest.mark.parametrize("auth", ["plain", "login"])
def test_auth(auth: str) -> None:
    dialog = Dialog(Options(auth=auth, user="me", secret="word"))
    dialog.received(b"220 hi\r\n250 sink\r\n")
    said = dialog.output().split(b"\r\n")
    if auth == "plain":
        assert base64.b64decode(said[1].removeprefix(b"AUTH PLAIN ")) == b"\0me\0word"
    else:
        assert said[1] == b"AUTH LOGIN"
        dialog.received(b"334 VXNlcm5hbWU6\r\n")
        assert dialog.output() == base64.b64encode(b"me") + b"\r\n"
        dialog.received(b"334 UGFzc3dvcmQ6\r\n")
        assert dialog.output() == base64.b64encode(b"word") + b"\r\n"
    dialog.received(b"235 2.7.0 Ok\r\n")
    assert dialog.ready
    assert not dialog.fault


def test_starttls_starts_over() -> None:
    dialog = Dialog(Options(security="starttls"))
    dialog.received(b"220 hi\r\n250-sink\r\n250 STARTTLS\r\n220 2.0.0 Go\r\n")
    assert dialog.output() == b"EHLO load.shop.example\r\nSTARTTLS\r\n"
    assert dialog.secure
    dialog.secured()
    assert dialog.output() == b"EHLO load.shop.example\r\n"
    dialog.received(b"250-sink\r\n250 PIPELINING\r\n")
    assert dialog.ready
    assert dialog.offered == {"SINK", "PIPELINING"}


def test_replies_may_come_an_octet_at_a_time() -> None:
    dialog = Dialog(Options(pipelining=True))
    for octet in b"220 hi\r\n250-sink\r\n250 PIPELINING\r\n":
        dialog.received(bytes([octet]))
    dialog.begin(b"x\r\n.\r\n")
    for octet in b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go\r\n":
        dialog.received(bytes([octet]))
    dialog.output()
    for octet in b"250 2.0.0 Ok\r\n":
        assert not dialog.accepted
        dialog.received(bytes([octet]))
    assert dialog.accepted
    assert dialog.ready


def test_the_proxy_header_reads_back() -> None:
    header = proxy_header("198.51.100.7", 4242, ("127.0.0.1", 25))
    protocol = ProxyProtocolV2()
    read = protocol.unpack_data(protocol.unpack_header(header[:16]), header[:16], header[16:])
    assert str(read.source[0]) == "198.51.100.7"
    assert read.source[1] == 4242


@pytest.mark.parametrize("kind", ["1500", "4000", "100000", "mixed"])
def test_the_corpus_is_the_same_for_the_same_seed_and_keeps_the_rules(kind: str) -> None:
    mails = corpus(kind, count=10)
    assert mails == corpus(kind, count=10)
    for mail in mails:
        assert mail.content.isascii()
        assert mail.content.count(b"\r") == mail.content.count(b"\n") == mail.content.count(b"\r\n")
        assert max(map(len, mail.content.split(b"\r\n"))) <= 998
        assert mail.wire.endswith(b"\r\n.\r\n")


def test_dots_are_stuffed() -> None:
    assert dot_stuffed(b".a\r\n..b\r\nc") == b"..a\r\n...b\r\nc\r\n.\r\n"
    assert dot_stuffed(b"a\r\n") == b"a\r\n.\r\n"


def test_percentiles_are_nearest_rank() -> None:
    assert percentiles([]) == {}
    assert percentiles([n / 1000 for n in range(1, 101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert percentiles([0.002]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
