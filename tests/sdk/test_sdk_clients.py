"""The three clients against a real server: the same verbs, values and errors."""

from __future__ import annotations

import smtplib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from running import Running
from scenarios import a_mail, send, settle, upcoming

from mailfarm.sdk import (
    AddressTaken,
    ApiError,
    CannotConnect,
    NoSuchMailbox,
    NoSuchMessage,
    NotInMessage,
    UnexpectedMessage,
    WaitTimeout,
)

Put = Callable[..., Awaitable[None]]


@pytest_twisted.ensureDeferred
async def test_a_wait_gives_a_message_with_everything(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        send(running, inbox.address)
        mail = await settle(inbox.wait_for(subject="reset", timeout=10))
        assert mail.subject == "Your reset link"
        assert mail.sender == "noreply@shop.example"
        assert str(mail.from_) == "Shop <noreply@shop.example>"
        assert [each.address for each in mail.to] == [inbox.address]
        assert mail.recipients == (inbox.address,)
        assert "481516" in mail.text
        assert "<b>481516</b>" in mail.html
        assert mail.code() == "481516"
        assert mail.link("reset") == "https://shop.example/reset?token=abc"
        assert mail.link("help").text == "Help"
        with pytest.raises(NotInMessage, match=r"shop\.example/help"):
            mail.link("login")
        assert mail.headers["x-tag"] == "one"
        assert mail.mailbox == inbox.id
        (attachment,) = mail.attachments
        assert (attachment.filename, attachment.content_type) == ("a.bin", "application/octet-stream")
        assert await settle(attachment.read()) == attachment.content == b"\x00\x01binary\r\n\xff"
        assert attachment.size == len(attachment.content)
        assert (await settle(mail.read_raw())).startswith(b"Received: ")
        assert b"X-Tag: one\r\n" in mail.raw
        assert await settle(mail.read_part(attachment.n)) == attachment.content

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_lists_marks_and_deletes(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        send(running, inbox.address, "one", "two", "three")
        await settle(inbox.wait_for_all(3, timeout=10))
        assert [m.subject for m in await settle(inbox.messages())] == ["one", "two", "three"]
        assert [m.subject for m in await settle(inbox.messages(order="desc", limit=2))] == ["three", "two"]
        (two,) = await settle(inbox.messages(subject="TWO", from_="noreply@shop.example", contains="481516"))
        assert await settle(inbox.messages(from_="shop.example", to="nobody@else.example")) == []
        await settle(two.mark_seen())
        assert two.seen
        assert [m.subject for m in await settle(inbox.messages(seen=False))] == ["one", "three"]
        await settle(two.load())
        assert two.code() == "481516"
        same = await settle(farm.message(two.id))
        assert same == two
        assert same.headers["subject"] == "two"
        await settle(two.delete())
        with pytest.raises(NoSuchMessage):
            await settle(two.delete())
        with pytest.raises(NoSuchMessage):
            await settle(farm.message(two.id))
        assert await settle(inbox.mark_all_seen()) == 2
        assert (await settle(inbox.refresh())).unseen == 0
        assert await settle(inbox.clear()) == 2
        assert await settle(inbox.messages()) == []

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_each_is_handed_out_once(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        send(running, inbox.address, "Reset 1", "Welcome", "Reset 2")
        first = await settle(inbox.wait_for(subject="Reset", timeout=10))
        second = await settle(inbox.wait_for(subject="Reset", timeout=10))
        assert [first.subject, second.subject] == ["Reset 1", "Reset 2"]
        with pytest.raises(WaitTimeout, match="3 messages") as caught:
            await settle(inbox.wait_for(subject="Reset", timeout=0.1))
        assert isinstance(caught.value, AssertionError)
        assert (await settle(inbox.wait_for(subject="Reset", timeout=10, after=first.seq))).subject == "Reset 2"
        with pytest.raises(UnexpectedMessage, match="Welcome"):
            await settle(inbox.assert_none(within=0))
        await settle(inbox.assert_none(subject="Reset", within=0.1))
        await settle(inbox.skip_existing())
        await settle(inbox.assert_none(within=0.1))
        again = await settle(farm.mailbox(inbox.address))
        assert (await settle(again.wait_for(timeout=10))).subject == "Reset 1"

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_several_and_exactly_so_many(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        send(running, inbox.address, "a", "b", "c")
        found = await settle(inbox.wait_for_all(2, timeout=10))
        assert [m.subject for m in found] == ["a", "b"]
        assert [m.subject for m in await settle(inbox.wait_for_all(1, timeout=0.2, exact=True))] == ["c"]
        with pytest.raises(UnexpectedMessage, match="exactly 2 messages"):
            await settle(inbox.wait_for_all(2, timeout=10, after=0, exact=True))
        with pytest.raises(WaitTimeout, match="3 of 4 messages") as caught:
            await settle(inbox.wait_for_all(4, timeout=0.1, after=0))
        assert len(caught.value.messages) == 3

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_near_misses_are_named(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        with pytest.raises(WaitTimeout, match="nothing has arrived at all"):
            await settle(inbox.wait_for(timeout=0))
        send(running, inbox.address, "Welcome \x07")
        await settle(inbox.wait_for(timeout=10))
        with pytest.raises(WaitTimeout, match=r"'Welcome.*not the subject") as caught:
            await settle(inbox.wait_for(subject="Reset", from_="noreply@shop.example", timeout=0.1))
        (miss,) = caught.value.near_misses
        assert miss.failed == ("subject",)
        assert caught.value.in_mailbox == 1

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_events_come_in_order(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        events = inbox.events(timeout=30)
        send(running, inbox.address, "one", "two")
        first, second = await upcoming(events), await upcoming(events)
        assert (first.type, first.seq, first.message.subject) == ("filed", 1, "one")
        assert (second.seq, second.message.subject) == (2, "two")
        await settle(first.message.mark_seen())
        seen = await upcoming(events)
        assert (seen.type, seen.seq, seen.ids, seen.seen) == ("seen", 3, (first.message.id,), True)
        await settle(second.message.delete())
        deleted = await upcoming(events)
        assert (deleted.type, deleted.ids) == ("deleted", (second.message.id,))
        replay = inbox.events(after=0, timeout=30)
        # the second message is gone: that it was filed is no news any more
        assert [(await upcoming(replay)).seq for _ in range(3)] == [1, 3, 4]
        await settle(inbox.delete())
        assert (await upcoming(events)).type == "mailbox-closed"
        assert await upcoming(events) is None
        for each in (events, replay):
            if hasattr(each, "aclose"):
                await each.aclose()
            else:
                each.close()

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_events_end_in_time(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox())
        assert await upcoming(inbox.events(timeout=0.2)) is None
        send(running, inbox.address)
        events = inbox.events(timeout=1)
        assert (await upcoming(events)).type == "filed"
        assert await upcoming(events) is None

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_mailboxes(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        inbox = await settle(farm.create_mailbox(kind="disposable", lifetime=60, retention=30))
        assert (inbox.state.kind, inbox.state.retention) == ("disposable", 30)
        assert inbox.state.ends_at is not None
        assert inbox.smtp.port == running.port("smtp", "capture")
        assert inbox.smtp.tls_port == running.port("smtp", "tls")
        assert inbox.smtp.user
        assert inbox.smtp.password
        assert inbox.smtp.password not in repr(inbox.smtp)
        with pytest.raises(AddressTaken):
            await settle(farm.create_mailbox(inbox.address))
        with pytest.raises(ApiError, match="address"):
            await settle(farm.create_mailbox("not an address"))
        assert inbox.id in [each.id for each in await settle(farm.mailboxes())]
        assert (await settle(farm.mailbox(inbox.id))).address == inbox.address
        await settle(farm.delete_mailbox(inbox.address))
        with pytest.raises(NoSuchMailbox, match=r"there are|none at all"):
            await settle(farm.mailbox(inbox.address))
        for verb in (inbox.wait_for, inbox.messages, inbox.delete, inbox.refresh, inbox.refusals):
            with pytest.raises(NoSuchMailbox):
                await settle(verb())
        if hasattr(inbox, "__aenter__"):
            async with await settle(farm.create_mailbox()) as short:
                pass
        else:
            with farm.create_mailbox() as short:
                pass
        with pytest.raises(NoSuchMailbox):
            await settle(farm.mailbox(short.id))
        assert (await settle(farm.version()))["name"] == "mailfarm"

    await put(running.url, scenario)


def test_the_mailbox_goes_while_somebody_waits(running: Running) -> None:
    """The wait ends, and says so."""
    from concurrent.futures import ThreadPoolExecutor

    from mailfarm.sdk import Farm

    with Farm(running.url) as farm, ThreadPoolExecutor(1) as pool:
        inbox = farm.create_mailbox()
        waiting = pool.submit(inbox.wait_for, timeout=30)
        events = inbox.events()
        inbox.delete()
        with pytest.raises(NoSuchMailbox):
            waiting.result(20)
        with pytest.raises(NoSuchMailbox):
            next(events)


@pytest_twisted.ensureDeferred
async def test_refusals(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        address = "nobody.here@mailfarm.test"
        with (
            smtplib.SMTP("127.0.0.1", running.port("mx")) as smtp,
            pytest.raises(smtplib.SMTPRecipientsRefused),
        ):
            smtp.send_message(a_mail(address), "a@shop.example", [address])
        refusal = (await settle(farm.refusals(address)))[-1]
        assert (refusal.code, refusal.enhanced, refusal.address) == (550, "5.1.1", address)
        assert any(line.upper().startswith("C: RCPT TO:") for line in refusal.lines)
        inbox = await settle(farm.create_mailbox())
        assert await settle(inbox.refusals()) == []

    await put(running.url, scenario)


@pytest_twisted.ensureDeferred
async def test_nobody_there(nobody: str, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        with pytest.raises(CannotConnect, match=r"http://127.* is `mailfarm dev` running"):
            await settle(farm.create_mailbox())

    await put(nobody, scenario)


@pytest_twisted.ensureDeferred
async def test_something_else_is_there(running: Running, put: Put) -> None:
    async def scenario(farm: Any) -> None:
        with pytest.raises(ApiError):
            await settle(farm.create_mailbox())

    await put(running.url + "/not/here", scenario)
