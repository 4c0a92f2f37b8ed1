"""submission: the credential decides where mail goes, and guessing does not pay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import wait_until
from prometheus_client import CollectorRegistry
from smtp_house import FREE, house
from submission_client import GOOD, greeted, plain, secured, send

from mailfarm.config import SubmissionSettings, variables
from mailfarm.errors import ConfigurationError
from mailfarm.mailboxes import store
from mailfarm.mailboxes.announce import account_topic
from mailfarm.services import submission as submission_module


@pytest_twisted.ensureDeferred
async def test_open_capture_files_by_recipient_and_what_is_left_in_the_default_mailbox(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        box = await h.mailbox("mine@app.example")
        ended = await h.mailbox("ended@app.example", kind="disposable", lifetime=60)
        theirs = await h.mailbox("theirs@app.example", account=await h.another_account())
        h.ahead = 120 * 1_000_000
        client, _ = await greeted(service.listening["capture"].port)
        recipients = ("mine@app.example", "Mine+tag@App.Example", "x@y.example", "ended@app.example")
        recipients += ("theirs@app.example", "postmaster", "x@[192.0.2.1]", "a%b@c.example")
        assert (await send(client, *recipients))[-1] == "250"
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (box.id, box.id) + (h.inbox.id,) * 6
        assert not {ended.id, theirs.id} & set(spooled.mailboxes)
        assert (spooled.account, spooled.origin.service, spooled.origin.credential) == (h.account.id, "submission", "")
        assert spooled.origin.protocol == "ESMTP"
        await client.close()


@pytest.mark.parametrize("how", ["capture", "starttls", "tls"])
@pytest_twisted.ensureDeferred
async def test_a_mailbox_credential_files_everything_in_that_mailbox(tmp_path: Path, how: str) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        box = await h.mailbox()
        await h.mailbox("other@app.example")
        secret = await h.credential(box.id, mailbox=box.id)
        port = service.listening[how].port
        client, _ = await (secured(port) if how == "starttls" else greeted(port, tls=how == "tls"))
        assert await client.say(plain(box.id, secret)) == "235 2.7.0 Authenticated"
        assert await send(client, "other@app.example") == GOOD
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (box.id,)
        assert spooled.origin.credential != ""
        assert spooled.origin.protocol == ("ESMTPA" if how == "capture" else "ESMTPSA")
        assert secret not in str(spooled.origin)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_credential_without_a_mailbox_files_by_recipient_in_its_own_account(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        other = await h.another_account()
        theirs = await h.mailbox("theirs@app.example", account=other)
        await h.mailbox("ours@app.example")
        secret = await h.credential("theirs", account=other)
        client, _ = await greeted(service.listening["tls"].port, tls=True)
        assert (await client.say(plain("theirs", secret))).startswith("235 ")
        assert await send(client, "theirs@app.example") == GOOD
        ((spooled, _),) = await h.spooled()
        assert (spooled.account, spooled.mailboxes) == (other, (theirs.id,))
        refused = await send(client, "ours@app.example")
        assert refused == ["250", "550 5.1.1"], "another account's mailbox, and the default one, are not theirs"
        assert h.refused[-1].account == other
        await client.close()


@pytest_twisted.ensureDeferred
async def test_an_ended_mailbox_is_told_to_its_credential(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        box = await h.mailbox(kind="disposable", lifetime=60)
        secret = await h.credential(box.id, mailbox=box.id)
        client, _ = await greeted(service.listening["capture"].port)
        assert (await client.say(plain(box.id, secret))).startswith("235 ")
        assert await send(client, "x@y.example") == GOOD
        h.ahead = 120 * 1_000_000
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("250 ")
        assert (await client.say("RCPT TO:<x@y.example>")).startswith("550 5.1.1 The mailbox has ended")
        assert (h.refused[-1].account, h.refused[-1].address) == (h.account.id, "x@y.example")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_default_mailbox_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, h.inbox.id))
        heard: list[Any] = []
        await h.bus.subscribe(account_topic(h.account.id), heard.append)
        client, _ = await greeted(service.listening["capture"].port)
        assert await send(client, "x@y.example", "z@y.example") == ["250", *GOOD]
        ((spooled, _),) = await h.spooled()
        made = await h.database.read(lambda tx: store.by_address(tx, "inbox@mailfarm.test"))
        assert spooled.mailboxes == (made.id, made.id)
        assert (made.kind, made.account, made.ends_at) == ("permanent", h.account.id, None)
        assert [(type(each).__name__, each.mailbox) for each in heard] == [("MailboxOpened", made.id)]
        # and one that somebody made instead does as well
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, made.id))
        theirs = await h.mailbox("inbox@mailfarm.test")
        assert await send(client, "x@y.example") == GOOD
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (theirs.id,)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_default_mailbox_that_has_ended_or_not_begun_lives_again(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        client, _ = await greeted(service.listening["capture"].port)
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, h.inbox.id))
        brief = await h.mailbox("inbox@mailfarm.test", kind="disposable", lifetime=60)
        h.ahead = 120 * 1_000_000
        assert await send(client, "x@y.example") == GOOD
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes != (brief.id,)
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, spooled.mailboxes[0]))
        future = await h.mailbox("inbox@mailfarm.test", starts_at=h.clock() + 3600 * 1_000_000)
        assert await send(client, "x@y.example") == GOOD
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (future.id,)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_what_was_refused_says_its_mailbox(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission(max_size=1000)
        port = service.listening["capture"].port
        box = await h.mailbox("box@app.example")
        secret = await h.credential(box.id, mailbox=box.id)

        def told() -> list[tuple[int, str, str]]:
            found = [(each.code, each.address, each.mailbox) for each in h.refused]
            h.refused.clear()
            return found

        client, _ = await greeted(port)
        await client.say(plain(box.id, secret))
        assert (await client.say("MAIL FROM:<a@b.example> SIZE=1001")).startswith("552 ")
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("250 ")
        assert (await client.say("RCPT TO:<x..y@z.example>")).startswith("501 ")
        assert (await client.say("RCPT TO:<x@z.example>")).startswith("250 ")
        assert (await client.say("DATA")).startswith("354 ")
        assert (await client.say("x" * 1100 + "\r\n.")).startswith("552 ")
        assert told() == [(552, "", box.id), (501, "x..y@z.example", box.id), (552, "x@z.example", box.id)]
        await client.close()
        # without a credential the recipients say it, also of what was refused before them
        client, _ = await greeted(port)
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("250 ")
        assert (await client.say("RCPT TO:<x..y@z.example>")).startswith("501 ")
        assert (await client.say("RCPT TO:<box+tag@app.example>")).startswith("250 ")
        assert (await client.say("RCPT TO:<box@app.example> COLOUR=red")).startswith("555 ")
        assert told() == [(501, "x..y@z.example", box.id), (555, "box@app.example", box.id)]
        assert (await client.say("RSET")).startswith("250 ")
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("250 ")
        assert (await client.say("RCPT TO:<x..y@z.example>")).startswith("501 ")
        assert (await client.say("RSET")).startswith("250 ")
        assert told() == [(501, "x..y@z.example", "")]
        assert (await client.say("MAIL FROM:<a@b.example> SIZE=1001")).startswith("552 ")
        await wait_until(lambda: h.refused)
        assert told() == [(552, "", h.inbox.id)]
        await client.close()
        # nobody in particular
        client, _ = await secured(service.listening["starttls"].port)
        assert (await client.say("MAIL FROM:<a@b.example> SIZE=1001")).startswith("552 ")
        assert told() == []
        await client.close()


@pytest_twisted.ensureDeferred
async def test_bare_line_feeds_are_mended_only_if_that_is_set(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        for normalize, expected in ((False, "550 5.6.0"), (True, "250")):
            settings = SubmissionSettings(capture=FREE, starttls=None, tls=None, normalize=normalize)
            service = await h.submission(settings=settings, registry=CollectorRegistry())
            client, _ = await greeted(service.listening["capture"].port)
            assert (await send(client, "x@y.example", text="Subject: x\n\ntext"))[-1] == expected
            await client.close()
        ((_, content),) = await h.spooled()
        assert content == b"Subject: x\r\n\r\ntext\r\n"


@pytest_twisted.ensureDeferred
async def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(ConfigurationError, match="MAILFARM_HOSTNAME"):
            await h.submission(hostname="no name")
        with pytest.raises(ConfigurationError, match=r"_MAX_RECIPIENTS.*at least 100"):
            await h.submission(settings=SubmissionSettings(max_recipients=5), registry=CollectorRegistry())


def test_its_manual_names_its_settings() -> None:
    for variable in variables():
        if variable.group == "submission":
            assert variable.name in (submission_module.__doc__ or "")
