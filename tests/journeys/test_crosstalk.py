"""Fifty clients at once, each with a mailbox of its own: nobody sees another's mail, and no wait misses its own."""

from __future__ import annotations

import asyncio
import smtplib
from concurrent.futures import ThreadPoolExecutor

from running import Running

from mailfarm.sdk import AsyncFarm, Farm, Inbox

CLIENTS = 50
ROUNDS = 20


def test_fifty_clients_a_thousand_waits(running: Running) -> None:
    with Farm(running.url, timeout=60) as farm, ThreadPoolExecutor(CLIENTS) as pool:
        inboxes = list(pool.map(lambda _: farm.create_mailbox(), range(CLIENTS)))
        assert len({inbox.address for inbox in inboxes}) == CLIENTS
        codes = list(pool.map(lambda each: _client(running, *each), enumerate(inboxes)))
    assert codes == [[f"{client:02d}{round_:04d}" for round_ in range(ROUNDS)] for client in range(CLIENTS)]


def _client(running: Running, number: int, inbox: Inbox) -> list[str]:
    """Ask for a code and wait for it, again and again, with criteria that would match every other client's mail too."""
    codes = []
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"), timeout=60) as smtp:
        for round_ in range(ROUNDS):
            body = f"Subject: Your code\r\n\r\nYour code is {number:02d}{round_:04d}.\r\n"
            smtp.sendmail("app@example.org", [inbox.address], body)
            mail = inbox.wait_for(subject="Your code", from_="app@example.org", timeout=60)
            assert mail.recipients == (inbox.address,)
            codes.append(mail.code())
    assert [mail.seq for mail in inbox.messages()] == list(range(1, ROUNDS + 1))
    return codes


def test_waits_that_begin_before_the_mail_is_sent(running: Running) -> None:
    """All wait first; then the mails come in, in an order that is nobody's."""

    async def wait(farm: AsyncFarm, number: int, ready: asyncio.Semaphore) -> tuple[str, str]:
        inbox = await farm.create_mailbox()
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(inbox.wait_for(timeout=60))
        ready.release()
        async with gate:
            await loop.run_in_executor(None, _send, running, inbox.address, f"for {number}")
        return (await waiting).subject, f"for {number}"

    gate = asyncio.Semaphore(0)

    async def run() -> None:
        ready = asyncio.Semaphore(0)
        async with AsyncFarm(running.url, timeout=60) as farm:
            clients = [asyncio.ensure_future(wait(farm, number, ready)) for number in range(CLIENTS)]
            for _ in range(CLIENTS):
                await ready.acquire()
            for _ in range(8):
                gate.release()
            for got, wanted in await asyncio.gather(*clients):
                assert got == wanted

    asyncio.run(run())


def _send(running: Running, address: str, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"), timeout=60) as smtp:
        smtp.sendmail("app@example.org", [address], f"Subject: {subject}\r\n\r\nx\r\n")
