"""Connections cut, a server that restarts, tokens, and waits that are given up: the same for all three clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from relay import Relay
from running import Running, until
from scenarios import send, settle, upcoming
from twisted.internet.defer import CancelledError

from mailfarm.sdk import AsyncFarm, CannotConnect, Farm, NoSuchMailbox, NotAllowed
from mailfarm.sdk.twisted import TwistedFarm

Put = Callable[..., Awaitable[None]]


@pytest.fixture
def relay(running: Running) -> Iterator[Relay]:
    """A relay before the server."""
    with Relay(running.port("http")) as relay:
        yield relay


def in_a_moment(relay: Relay, work: Callable[[], None]) -> threading.Thread:
    """Do something once a connection through the relay is open and has said what it wants."""

    def run() -> None:
        until(lambda: relay.open)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest_twisted.ensureDeferred
async def test_a_wait_outlives_its_connection(running: Running, relay: Relay, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())

        def trouble() -> None:
            for _ in range(3):
                relay.cut()
                until(lambda: relay.open)
            relay.away()
            send(running, inbox.address)
            relay.back(relay.target)

        thread = in_a_moment(relay, trouble)
        mail = await settle(inbox.wait_for(timeout=30))
        thread.join()
        assert mail.subject == "Your reset link"

    await put(relay.url, scenario)


@pytest_twisted.ensureDeferred
async def test_events_outlive_their_connection(running: Running, relay: Relay, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        events = inbox.events(timeout=30)
        seen = []
        for number in range(4):
            send(running, inbox.address, f"a{number}", f"b{number}")
            seen += [await upcoming(events), await upcoming(events)]
            relay.cut()
        assert [each.seq for each in seen] == list(range(1, 9))
        assert [each.message.subject for each in seen[-2:]] == ["a3", "b3"]
        if hasattr(events, "aclose"):
            await events.aclose()
        else:
            events.close()

    await put(relay.url, scenario)


@pytest_twisted.ensureDeferred
async def test_a_server_that_restarts(tmp_path: Path, put: Put) -> None:
    """The wait begins at one process and ends at the next one, on the same data."""
    folder = tmp_path / "data"
    first = Running(folder)
    with Relay(first.port("http")) as relay, ThreadPoolExecutor(1) as pool:

        async def scenario(farm: Any) -> None:
            inbox = await settle(farm.create_mailbox())

            def restart() -> Running:
                until(lambda: relay.open)
                relay.away()
                first.stop()
                second = Running(folder)
                relay.back(second.port("http"))
                send(second, inbox.address)
                return second

            restarting = pool.submit(restart)
            try:
                mail = await settle(inbox.wait_for(timeout=60))
                assert mail.code() == "481516"
            finally:
                restarting.result().stop()

        await put(relay.url, scenario)


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_come_back(relay: Relay, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        relay.away()
        with pytest.raises(CannotConnect, match="went away"):
            await settle(inbox.wait_for(timeout=0.5))
        with pytest.raises(CannotConnect, match="went away"):
            await settle(inbox.messages())

    await put(relay.url, scenario)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_does_not_come(put: Put) -> None:
    """Something accepts the connection and says nothing."""
    import socket

    async def scenario(farm: Any) -> None:
        with pytest.raises(CannotConnect):
            await settle(farm.create_mailbox())

    with socket.create_server(("127.0.0.1", 0)) as silent:
        await put(f"http://127.0.0.1:{silent.getsockname()[1]}", scenario, timeout=0.2)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Running, str]]:
    """A server that asks for a token, and the token."""
    token = "a-token-that-is-long-enough"
    with Running(MAILFARM_API_AUTH="token", MAILFARM_API_FIRST_TOKEN=token) as running:
        yield running, token


@pytest_twisted.ensureDeferred
async def test_a_token(guarded: tuple[Running, str], put: Put) -> None:
    running, token = guarded

    async def without(farm: Any) -> None:
        with pytest.raises(NotAllowed, match="token"):
            await settle(farm.create_mailbox())

    async def with_it(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        events = inbox.events(timeout=30)
        send(running, inbox.address)
        assert (await upcoming(events)).type == "filed"
        if hasattr(events, "aclose"):
            await events.aclose()
        else:
            events.close()
        await settle(inbox.delete())
        with pytest.raises(NoSuchMailbox):
            await upcoming(inbox.events(timeout=30))

    await put(running.url, without)
    await put(running.url, without, token="wrong")
    await put(running.url, with_it, token=token)


def test_a_token_for_the_commands(
    guarded: tuple[Running, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mailfarm.cli import main

    running, token = guarded
    monkeypatch.setenv("MAILFARM_URL", running.url)
    assert main(["list"]) == 1
    err = capsys.readouterr().err
    assert "set MAILFARM_TOKEN" in err
    assert "Farm(" not in err
    (tmp_path / "token").write_text(token + "\n")
    monkeypatch.setenv("MAILFARM_TOKEN_FILE", str(tmp_path / "token"))
    assert main(["list"]) == 0
    assert "inbox@mailfarm.test" in capsys.readouterr().out
    monkeypatch.delenv("MAILFARM_TOKEN_FILE")
    monkeypatch.setenv("MAILFARM_TOKEN", token)
    assert main(["list"]) == 0


def test_a_wait_given_up_with_asyncio(running: Running) -> None:
    async def run() -> None:
        async with AsyncFarm(running.url) as farm:
            inbox = await farm.create_mailbox()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(inbox.wait_for(timeout=60), 0.2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(inbox.events()), 0.2)
            send(running, inbox.address)
            assert (await inbox.wait_for(timeout=10)).code() == "481516"

    asyncio.run(run())


@pytest_twisted.ensureDeferred
async def test_a_wait_given_up_with_twisted(running: Running) -> None:
    async with TwistedFarm(running.url) as farm:
        inbox = await farm.create_mailbox()
        waiting = inbox.wait_for(timeout=60)
        farm.reactor.callLater(0.2, waiting.cancel)
        with pytest.raises(CancelledError):
            await waiting
        events = inbox.events()
        coming = events.next()
        farm.reactor.callLater(0.2, events.close)
        with pytest.raises(StopAsyncIteration):
            await coming
        send(running, inbox.address)
        assert (await inbox.wait_for(timeout=10)).code() == "481516"


def test_threads_share_a_farm_and_an_inbox(running: Running) -> None:
    """Ten threads wait on one inbox with the same criteria: each gets a message of its own."""
    with Farm(running.url) as farm, ThreadPoolExecutor(10) as pool:
        inbox = farm.create_mailbox()
        waiting = [pool.submit(inbox.wait_for, subject="n", timeout=30) for _ in range(10)]
        send(running, inbox.address, *(f"n{number}" for number in range(10)))
        assert sorted(each.result().subject for each in waiting) == [f"n{number}" for number in range(10)]
