"""PROXY headers on live listeners: plain, STARTTLS and implicit TLS."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_playing import Deciding
from test_net_proxy_header import BAD, GOOD, V1_GOOD
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mailfarm.config import Address
from mailfarm.net.proxy import SIGNATURE
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.smtp_session import Connection
from mailfarm.net.tls import ServerTls, dev_certificate
from mailfarm.smtp.server import ServerConfig

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
HEADER = GOOD["checksum first, as haproxy has it"][0]
REAL = ("192.0.2.7", 40000)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return ServerTls(dev_certificate(tmp_path_factory.mktemp("tls"), "mx.test", datetime.now(UTC)))


@asynccontextmanager
async def listening(
    tls: ServerTls | None = None, *, implicit: bool = False, trusted: Any = LOOPBACK, v1: bool = False
) -> AsyncIterator[tuple[Listener, list[Deciding]]]:
    sessions: list[Deciding] = []

    def session(connection: Connection) -> Deciding:
        sessions.append(Deciding({}, connection))
        return sessions[-1]

    factory = SMTPFactory(
        ServerConfig("mx.test", starttls=tls is not None and not implicit),
        session,
        reactor,
        SMTPMetrics(CollectorRegistry(), "test"),
        caps=Caps(sweep=0.05),
        tls=tls,
        implicit_tls=implicit,
    )
    listener = Listener(Address("127.0.0.1", 0), factory, setting="X", proxy_from=trusted, proxy_v1=v1)
    await listener.start()
    try:
        yield listener, sessions
    finally:
        await listener.stop(0)
        assert listener._proxy is None or not listener._proxy.waiting


def who(sessions: list[Deciding]) -> tuple[str, int]:
    (session,) = sessions
    return session.connection.client, session.connection.port


@pytest.mark.parametrize("name", GOOD)
@pytest_twisted.ensureDeferred
async def test_the_real_client_is_known_before_the_greeting(name: str) -> None:
    data, wanted = GOOD[name]
    async with listening() as (listener, sessions):
        client = await connect(listener.address.port)
        here = client.transport.getHost()
        await wait_until(lambda: listener._proxy and listener._proxy.waiting)
        assert not sessions
        client.send(data + b"EHLO client.test\r\nNOOP\r\n")
        assert (await client.reply()).startswith("220 ")
        assert await client.codes(2) == ["250", "250"], "what came in the header's segment is not lost"
        assert who(sessions) == (wanted or (here.host, here.port))
        await client.close()


@pytest.mark.parametrize("name", V1_GOOD)
@pytest_twisted.ensureDeferred
async def test_version_1_by_setting(name: str) -> None:
    data, wanted = V1_GOOD[name]
    async with listening(v1=True) as (listener, sessions):
        client = await connect(listener.address.port)
        here = client.transport.getHost()
        client.send(data + b"NOOP\r\n")
        assert await client.codes(2) == ["220", "250"]
        assert who(sessions) == (wanted or (here.host, here.port))
        await client.close()


@pytest.mark.parametrize("name", [name for name in BAD if "cut short" not in name or "value" in name])
@pytest_twisted.ensureDeferred
async def test_a_listed_peer_without_a_good_header_hears_nothing_and_is_closed(name: str) -> None:
    async with listening() as (listener, sessions):
        client = await connect(listener.address.port)
        client.send(BAD[name][0])
        await client.ended()
        assert client.received == b""
        assert not sessions


@pytest_twisted.ensureDeferred
async def test_a_header_cut_at_every_octet_with_ehlo_behind_it() -> None:
    whole = HEADER + b"EHLO client.test\r\n"
    async with listening() as (listener, sessions):
        for cut in range(1, len(whole)):
            client = await connect(listener.address.port)
            client.send(whole[:cut])
            await wait_until(lambda: sessions or (listener._proxy and any(p._data for p in listener._proxy.waiting)))
            client.send(whole[cut:])
            assert await client.codes(2) == ["220", "250"]
            assert who(sessions) == REAL
            sessions.clear()
            await client.close()


@pytest_twisted.ensureDeferred
async def test_a_header_one_octet_at_a_time() -> None:
    async with listening() as (listener, sessions):
        client = await connect(listener.address.port)
        for octet in HEADER + b"NOOP\r\n":
            client.send(bytes([octet]))
            await wait_until(lambda: not client.transport.dataBuffer, every=0.0)
        assert await client.codes(2) == ["220", "250"]
        assert who(sessions) == REAL
        await client.close()


def tls_dialog(port: int, first: bytes, cut: int, starttls: bool) -> str:
    """A blocking client: the header, glued to a ClientHello, cut at ``cut``; then TLS and an EHLO inside it."""
    context = ssl._create_unverified_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = context.wrap_bio(incoming, outgoing, server_hostname="mx.test")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if starttls:
            raw.sendall(first + b"EHLO client.test\r\nSTARTTLS\r\n")
            got = b""
            while b"\r\n220 2.0.0" not in got:
                got += raw.recv(4096)
            first = b""

        def pump(step: Any, *rest: Any) -> Any:
            nonlocal first
            while True:
                try:
                    result = step(*rest)
                except ssl.SSLWantReadError:
                    result = None
                if outgoing.pending:
                    data = first + outgoing.read()
                    first = b""
                    raw.sendall(data[:cut])
                    raw.sendall(data[cut:])
                if result is not None:
                    return result
                incoming.write(raw.recv(65536))

        pump(lambda: inside.do_handshake() or True)
        text = b"" if starttls else pump(inside.read, 4096)
        assert starttls or text.startswith(b"220 ")
        pump(inside.write, b"EHLO client.test\r\n")
        while b"250 " not in text:
            text += pump(inside.read, 4096)
        return str(inside.version())


@pytest_twisted.ensureDeferred
async def test_a_header_below_implicit_tls_cut_at_every_octet_and_glued_to_a_client_hello(tls: ServerTls) -> None:
    async with listening(tls, implicit=True) as (listener, sessions):
        for cut in range(len(HEADER) + 8):
            assert await deferToThread(tls_dialog, listener.address.port, HEADER, cut, False) == "TLSv1.3"
            assert who(sessions) == REAL
            assert sessions[0].connection.tls.startswith("TLSv1.3 ")
            sessions.clear()


@pytest_twisted.ensureDeferred
async def test_a_header_before_starttls(tls: ServerTls) -> None:
    async with listening(tls) as (listener, sessions):
        assert await deferToThread(tls_dialog, listener.address.port, HEADER, 0, True) == "TLSv1.3"
        assert who(sessions) == REAL
        assert sessions[0].connection.tls.startswith("TLSv1.3 ")


@pytest_twisted.ensureDeferred
async def test_a_second_header_is_garbage(tls: ServerTls) -> None:
    second = GOOD["IPv6"][0]
    async with listening() as (listener, sessions):
        for both in (True, False):
            client = await connect(listener.address.port)
            client.send(HEADER + (second if both else b""))
            assert (await client.reply()).startswith("220 ")
            if not both:
                client.send(second)
            assert (await client.reply())[0] == "5"
            await client.ended()
            assert who(sessions) == REAL
            assert sessions[0].asked == ["connected"]
            sessions.clear()


@pytest_twisted.ensureDeferred
async def test_a_second_header_inside_tls_is_garbage_too(tls: ServerTls) -> None:
    async with listening(tls, implicit=True) as (listener, sessions):
        raw = await connect(listener.address.port)
        raw.send(HEADER)
        await raw.start_tls()
        assert (await raw.reply()).startswith("220 ")
        raw.send(GOOD["IPv6"][0])
        assert (await raw.reply())[0] == "5"
        await raw.ended()
        assert who(sessions) == REAL


OTHERS = (ip_network("192.0.2.0/24"),)


@pytest.mark.parametrize("first", [HEADER, GOOD["LOCAL"][0], V1_GOOD["TCP4"][0]], ids=["v2", "LOCAL", "v1"])
@pytest_twisted.ensureDeferred
async def test_a_header_of_a_peer_that_is_not_listed_is_an_smtp_error(first: bytes) -> None:
    async with listening(trusted=OTHERS, v1=True) as (listener, sessions):
        client = await connect(listener.address.port)
        assert (await client.reply()).startswith("220 "), "it speaks SMTP and is greeted as such"
        client.send(first)
        assert (await client.reply())[0] == "5"
        assert who(sessions)[0] == "127.0.0.1"
        assert sessions[0].asked == ["connected"]
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_header_of_a_peer_that_is_not_listed_breaks_its_handshake(tls: ServerTls) -> None:
    async with listening(tls, implicit=True, trusted=OTHERS) as (listener, sessions):
        client = await connect(listener.address.port)
        client.send(HEADER)
        await client.ended()
        # whether it may come in was asked while it shook hands; nothing was ever said
        assert [session.asked for session in sessions] == [["connected"]]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_is_not_listed_needs_no_header() -> None:
    async with listening(trusted=OTHERS) as (listener, sessions):
        client = await connect(listener.address.port)
        assert (await client.reply()).startswith("220 ")
        assert who(sessions)[0] == "127.0.0.1"
        await client.close()


@pytest.mark.parametrize("part", [b"", HEADER[:1], HEADER[:20], HEADER[:-1]])
@pytest_twisted.ensureDeferred
async def test_a_listed_peer_that_is_slow_is_closed(part: bytes) -> None:
    async with listening() as (listener, sessions):
        assert listener._proxy is not None
        listener._proxy.timeout = 0.2
        client = await connect(listener.address.port)
        client.send(part)
        await client.ended()
        assert client.received == b""
        assert not sessions
        assert not listener._proxy.waiting


@pytest_twisted.ensureDeferred
async def test_a_listed_peer_that_goes_leaves_nothing() -> None:
    async with listening() as (listener, _):
        assert listener._proxy is not None
        client: Client = await connect(listener.address.port)
        client.send(HEADER[:10])
        await wait_until(lambda: listener._proxy.waiting)
        await client.close()
        await wait_until(lambda: not listener._proxy.waiting)


@pytest_twisted.ensureDeferred
async def test_draining_closes_those_who_have_not_said_their_header() -> None:
    async with listening() as (listener, _):
        client = await connect(listener.address.port)
        client.send(HEADER[:10])
        await wait_until(lambda: listener._proxy and listener._proxy.waiting)
        await listener.stop(0)
        await client.ended()


def test_the_signature_is_the_specifications() -> None:
    assert bytes.fromhex("0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A") == SIGNATURE
    assert struct.unpack("!H", GOOD["IPv4"][0][14:16]) == (12,)
