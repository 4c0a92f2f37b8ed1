"""The three clients, to which the same scenarios are put, and mails to send.

A scenario is a coroutine that settles whatever a verb gives: the blocking client's values, asyncio's awaitables and
Twisted's Deferreds alike.
"""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable, Coroutine
from email.message import EmailMessage
from inspect import isawaitable
from typing import Any

import pytest
from running import Running

Scenario = Callable[[Any], Coroutine[Any, Any, None]]


async def settle(value: Any) -> Any:
    """What a verb gives, once it is there."""
    return await value if isawaitable(value) else value


async def upcoming(events: Any) -> Any:
    """The next event; None at the end."""
    if hasattr(events, "__anext__"):
        return await anext(events, None)
    return next(events, None)


async def blocking(url: str, scenario: Scenario, **options: Any) -> None:
    """Put the scenario to the blocking client: nothing in it ever waits for a loop."""
    from mailfarm.sdk import Farm

    with Farm(url, **options) as farm, pytest.raises(StopIteration):
        scenario(farm).send(None)


async def with_asyncio(url: str, scenario: Scenario, **options: Any) -> None:
    """Put it to the asyncio client."""
    from mailfarm.sdk import AsyncFarm

    async def run() -> None:
        async with AsyncFarm(url, **options) as farm:
            await scenario(farm)

    asyncio.run(run())


async def with_twisted(url: str, scenario: Scenario, **options: Any) -> None:
    """Put it to the Twisted client."""
    from mailfarm.sdk.twisted import TwistedFarm

    async with TwistedFarm(url, **options) as farm:
        await scenario(farm)


CLIENTS = {"blocking": blocking, "asyncio": with_asyncio, "twisted": with_twisted}


def a_mail(to: str, subject: str = "Your reset link", text: str = "") -> EmailMessage:
    """A mail with two links, a code and an attachment."""
    mail = EmailMessage()
    mail["From"] = "Shop <noreply@shop.example>"
    mail["To"] = to
    mail["Subject"] = subject
    mail["X-Tag"] = "one"
    mail.set_content(text or "Your code is 481516.\nhttps://shop.example/reset?token=abc\n")
    mail.add_alternative('<p>Code <b>481516</b> <a href="https://shop.example/help">Help</a></p>', "html")
    mail.add_attachment(b"\x00\x01binary\r\n\xff", maintype="application", subtype="octet-stream", filename="a.bin")
    return mail


def send(running: Running, to: str, *subjects: str) -> None:
    """Send mails to an address, in order, on one connection."""
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        for subject in subjects or ("Your reset link",):
            smtp.send_message(a_mail(to, subject))
