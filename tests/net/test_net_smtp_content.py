"""Content of sessions on real sockets: where it is kept, and what frees it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import wait_until
from smtp_playing import GREETED, all_sent, errors, playing

from mailfarm.net import content as content_module
from mailfarm.net.content import SpillContent
from mailfarm.net.incoming_room import IN_ONE, IncomingRoom
from mailfarm.smtp.server import ServerConfig


@pytest_twisted.ensureDeferred
async def test_content_that_is_not_taken_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SpillContent] = []
    real = content_module.SpillContent.__init__

    def spied(self: SpillContent, *rest: Any, **more: Any) -> None:
        made.append(self)
        real(self, *rest, **more)

    monkeypatch.setattr(content_module.SpillContent, "__init__", spied)
    config = ServerConfig(hostname="mx.test", max_size=1_000_000)
    async with playing(room=IncomingRoom(tmp_path, in_memory=256 * 1024), config=config) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n" + "x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * 20_000 + ".\r\n")
        assert await client.codes(5) == ["250", "250", "250", "354", "552"]
        assert made[-1].closed
        client.send("MAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n" + ("z" * 70 + "\r\n") * 8_000)
        assert await client.codes(3) == ["250", "250", "354"]
        await wait_until(lambda: made[-1].spilled)
        await client.close()
        await wait_until(lambda: made[-1].closed)
        assert len(made) == 2
        assert play.count("messages_total", outcome="discarded") >= 1


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_452_for_that_transaction_and_the_session_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    def full(number: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with playing(room=IncomingRoom(tmp_path, in_memory=256 * 1024)) as play:
        client = await play.connect()
        client.send("EHLO client.test\r\n")
        assert (await client.reply()).startswith("250")
        big = "MAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n" + ("x" * 70 + "\r\n") * 8_000 + ".\r\n"
        with monkeypatch.context() as patched:
            patched.setattr(content_module, "_write_all", full)
            client.send(big)
            assert await client.codes(4) == ["250", "250", "354", "452"]
        assert b"452 4.3.1 " in client.received
        assert "No space left" in errors(said)[0]["why"]
        client.send(big)
        assert await client.codes(4) == ["250", "250", "354", "250"]
        assert len(play.session.accepted) == 1


@pytest_twisted.ensureDeferred
async def test_empty_content_is_content() -> None:
    async with playing() as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n.\r\n")
        assert await client.codes(5) == ["250", "250", "250", "354", "250"]
        assert [data for _, data in play.session.accepted] == [b""]


def in_memory(protocol: Any) -> int:
    """The octets of content a session keeps in memory, here and in the core."""
    content = protocol._incoming.content
    kept = 0 if content is None else content.in_memory
    return kept + protocol._core.buffered + len(protocol._core.content._gathered)


@pytest_twisted.ensureDeferred
async def test_many_large_messages_at_once_cost_little_memory(tmp_path: Path) -> None:
    """Twenty of 8 MB in flight: each keeps 2 MiB at most in memory, counted where it is kept."""
    line = b"x" * 998 + b"\r\n"
    count, lines = 20, 8 * 1024
    async with playing(room=IncomingRoom(tmp_path)) as play:
        clients = [await play.connect() for _ in range(count)]
        for client in clients:
            client.send(GREETED + "DATA\r\n")
            assert await client.codes(4) == ["250", "250", "250", "354"]
        block = line * 1024
        sizes: list[int] = []
        for _ in range(lines // 1024):
            for client in clients:
                client.send(block)
            await wait_until(lambda: all(all_sent(client) for client in clients))
            sizes.append(sum(in_memory(protocol) for protocol in play.factory.open))
        assert max(sizes) <= count * (IN_ONE + 256 * 1024)
        for client in clients:
            client.send(b".\r\n")
            assert (await client.reply()).startswith("250 ")
        assert sum(len(data) for session in play.sessions for _, data in session.accepted) == count * lines * 1000


@pytest_twisted.ensureDeferred
async def test_content_of_all_sessions_together_has_so_much_memory_and_the_rest_is_in_files(tmp_path: Path) -> None:
    """Each stays below what one session may keep in memory, and holds back its end."""
    room = IncomingRoom(tmp_path, in_memory=1024 * 1024)
    line = b"x" * 998 + b"\r\n"
    async with playing(room=room) as play:
        clients = [await play.connect() for _ in range(20)]
        for client in clients:
            client.send(GREETED + "DATA\r\n")
            assert await client.codes(4) == ["250", "250", "250", "354"]
            client.send(line * 250)
        await wait_until(lambda: all(protocol._incoming is not None for protocol in play.factory.open))
        await wait_until(lambda: sum(p._incoming.content.size for p in play.factory.open) >= 20 * 200_000)
        contents = [protocol._incoming.content for protocol in play.factory.open]
        kept = sum(content.in_memory for content in contents if content is not None)
        assert kept == room.held <= 1024 * 1024
        assert sum(content.spilled for content in contents if content is not None) >= 15
        for client in clients[1:]:
            client.send(b".\r\n")
            assert (await client.reply()).startswith("250 ")
        await clients[0].close()
        await wait_until(lambda: len(play.factory.open) == 19)
        del contents
    assert room.held == 0
    assert all(content == line * 250 for session in play.sessions for _, content in session.accepted)
