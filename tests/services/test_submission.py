"""submission: the credential decides where mail goes, and guessing does not pay."""

from __future__ import annotations

import base64
import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_house import ALL, FREE, House, house
from test_mx import proxy_header
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from mailfarm.accounts.limit_sets import read
from mailfarm.accounts.store import credentials, revoke_credential
from mailfarm.config import Address, SubmissionSettings, variables
from mailfarm.errors import ConfigurationError, DatabaseUnavailable
from mailfarm.mailboxes import store
from mailfarm.mailboxes.announce import account_topic
from mailfarm.net.smtp_server import Caps
from mailfarm.services import submission as submission_module
from mailfarm.services.submission import login


def plain(user: str, secret: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{secret}".encode()).decode()


async def greeted(port: int, *, tls: bool = False, header: bytes = b"") -> tuple[Client, str]:
    client = await connect(port, tls=tls)
    if header:
        client.send(header)
    assert (await client.reply()).startswith("220 ")
    return client, await client.say("EHLO client.test")


async def secured(port: int) -> tuple[Client, str]:
    client, _ = await greeted(port)
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls()
    return client, await client.say("EHLO client.test")


async def send(client: Client, *recipients: str, text: str = "Subject: x\r\n\r\ntext") -> list[str]:
    replies = [await client.say("MAIL FROM:<app@client.test>")]
    replies += [await client.say(f"RCPT TO:<{recipient}>") for recipient in recipients]
    if replies[-1].startswith("250"):
        replies.append(await client.say("DATA"))
        replies.append(await client.say(f"{text}\r\n."))
    return [reply[:9] if reply[:3] >= "400" else reply[:3] for reply in replies]


GOOD = ["250", "250", "354", "250"]


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


@pytest_twisted.ensureDeferred
async def test_open_capture_offers_no_starttls_unless_it_is_set(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        client, ehlo = await greeted(service.listening["capture"].port)
        assert "STARTTLS" not in ehlo
        assert "250-AUTH PLAIN LOGIN" in ehlo or "250 AUTH PLAIN LOGIN" in ehlo
        assert (await client.say("STARTTLS")).startswith("502 ")
        await client.close()
        settings = SubmissionSettings(capture=FREE, starttls=None, tls=None, capture_starttls=True)
        other = await h.submission(settings=settings, registry=CollectorRegistry())
        client, ehlo = await secured(other.listening["capture"].port)
        assert "AUTH PLAIN LOGIN" in ehlo
        assert await send(client, "x@y.example") == GOOD
        await client.close()


@pytest_twisted.ensureDeferred
async def test_open_capture_that_others_can_reach_takes_no_secret_in_plain_text(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        everywhere = SubmissionSettings(capture=Address("0.0.0.0", 0), starttls=None, tls=None)
        service = await h.submission(settings=everywhere, start=False)
        assert not service._listeners["capture"].factory.config.auth_without_tls
        service = await h.submission(plain_auth=False, registry=CollectorRegistry())
        client, ehlo = await greeted(service.listening["capture"].port)
        assert "AUTH" not in ehlo
        assert (await client.say(plain("a", "b"))).startswith("538 ")
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


@pytest.mark.parametrize("how", ["capture", "tls"])
@pytest_twisted.ensureDeferred
async def test_a_credential_to_send_is_told_that_sending_is_not_there(tmp_path: Path, how: str) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        secret = await h.credential("sender", purpose="send")
        client, _ = await greeted(service.listening[how].port, tls=how == "tls")
        assert (await client.say(plain("sender", secret))).startswith("235 ")
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("550 5.7.1 Sending is not available yet")
        assert (await client.say("RCPT TO:<x@remote.example>")).startswith("503 ")
        await client.close()
        assert (await h.queue.depth()).waiting == 0


@pytest.mark.parametrize("how", ["starttls", "tls"])
@pytest_twisted.ensureDeferred
async def test_mail_before_auth_is_530_where_auth_is_needed(tmp_path: Path, how: str) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        client, ehlo = await greeted(service.listening[how].port, tls=how == "tls")
        if how == "starttls":
            assert "STARTTLS" in ehlo
            assert "AUTH" not in ehlo
            assert (await client.say(plain("a", "b"))).startswith("538 ")
            assert (await client.say("MAIL FROM:<a@b.example>")).startswith("530 5.7.0 ")
            assert (await client.say("STARTTLS")).startswith("220 ")
            await client.start_tls()
            ehlo = await client.say("EHLO client.test")
        assert "AUTH PLAIN LOGIN" in ehlo
        assert "STARTTLS" not in ehlo
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("530 5.7.0 ")
        assert (await client.say("RCPT TO:<a@b.example>")).startswith("503 ")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_unknown_user_and_wrong_secret_are_answered_alike_and_the_third_time_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        secret = await h.credential("known")
        await h.credential("revoked")
        (revoked,) = [c for c in await h.database.read(lambda tx: credentials(tx, h.account.id)) if c.name == "revoked"]
        await h.database.unit(lambda tx: revoke_credential(tx, h.account.id, revoked.id))
        checks: list[Any] = []
        real = login.check

        def counted(*rest: Any) -> bool:
            checks.append(rest)
            return real(*rest)

        monkeypatch.setattr(login, "check", counted)
        said: list[Any] = []
        globalLogPublisher.addObserver(said.append)
        client, _ = await greeted(service.listening["capture"].port)
        replies = [await client.say(plain(user, "wrong-secret")) for user in ("known", "unknown")]
        assert replies == ["535 5.7.8 User name or password is wrong"] * 2
        assert (await client.say(plain("revoked", secret))).startswith("421 4.7.0 ")
        await client.ended()
        globalLogPublisher.removeObserver(said.append)
        assert len(checks) == 6, "the same work for each: what is remembered, then what the database says"
        assert [event["user"] for event in said if "user" in event] == ["known", "an unknown user", "revoked"]
        assert "wrong-secret" not in str(said)
        assert secret not in str(said)
        client, _ = await greeted(service.listening["capture"].port)
        assert (await client.say(plain("known", secret))).startswith("235 ")
        await client.close()
        metric = h.registry.get_sample_value
        assert metric("mailfarm_submission_logins_total", {"outcome": "accepted"}) == 1
        assert metric("mailfarm_submission_logins_total", {"outcome": "refused"}) == 3


@pytest_twisted.ensureDeferred
async def test_guessing_is_limited_by_client_and_by_name(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        settings = SubmissionSettings(capture=FREE, starttls=None, tls=None, proxy_from=ALL)
        service = await h.submission(
            settings=settings, limits=read("[client]\nfailed_auth = 2\nfailed_auth_of_a_user = 4")
        )
        port = service.listening["capture"].port
        secret = await h.credential("known")

        async def attempt(source: str, user: str, guess: str) -> str:
            client, _ = await greeted(port, header=proxy_header(source))
            reply = await client.say(plain(user, guess))
            await client.close()
            return reply[:9]

        assert [await attempt("192.0.2.1", f"u{n}", "x") for n in range(3)] == ["535 5.7.8"] * 2 + ["421 4.7.0"]
        assert await attempt("192.0.2.1", "known", secret) == "421 4.7.0", "not even the right one"
        assert await attempt("192.0.2.2", "known", secret) == "235 2.7.0"
        for n in (10, 11, 12, 13):
            assert await attempt(f"192.0.2.{n}", "known", "x") == "535 5.7.8"
        assert await attempt("192.0.2.14", "KNOWN", "x") == "454 4.7.0"
        assert await attempt("192.0.2.15", "unknown", "x") == "535 5.7.8"
        assert await attempt("2001:db8::1", "u1", "x") == "535 5.7.8"
        assert await attempt("2001:db8::2", "u2", "x") == "535 5.7.8"
        assert await attempt("2001:db8::3", "u3", "x") == "421 4.7.0", "its whole /64 guesses"


@pytest_twisted.ensureDeferred
async def test_clients_on_loopback_do_not_lock_one_another_out(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission(limits=read("[client]\nfailed_auth = 1\nfailed_auth_of_a_user = 2"))
        secret = await h.credential("known")
        port = service.listening["capture"].port
        for name in ("other", "known", "known", "known"):
            client, _ = await greeted(port)
            assert (await client.say(plain(name, "x"))).startswith("535 ")
            await client.close()
        client, _ = await greeted(port)
        assert (await client.say(plain("known", secret))).startswith("235 ")
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
async def test_an_auth_that_comes_too_late_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        service = await h.submission(caps=Caps(sweep=0.02, decision=0.1))
        secret = await h.credential("known", purpose="send")
        gate: Deferred[None] = Deferred()
        real, through = service.login.log_in, []

        async def slow(*asked: Any) -> Any:
            result = await real(*asked)
            await gate
            through.append(result[0].code)
            return result

        monkeypatch.setattr(service.login, "log_in", slow)
        client, _ = await greeted(service.listening["capture"].port)
        assert (await client.say(plain("known", secret))).startswith("451 ")
        gate.callback(None)
        await wait_until(lambda: through)
        assert through == [235]
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("250 "), "with the credential it would be 550"
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_away_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        secret = await h.credential("known")
        client, _ = await greeted(service.listening["capture"].port)

        async def away(work: object, *, once: bool = False) -> None:
            raise DatabaseUnavailable("locked")

        with monkeypatch.context() as patched:
            patched.setattr(h.database, "read", away)
            for _ in range(4):
                assert (await client.say(plain("known", secret))).startswith("454 4.7.0 ")
            assert await send(client, "x@y.example") == ["250", "451 4.3.0"]
        assert (await client.say("RSET")).startswith("250 ")
        assert (await client.say(plain("known", secret))).startswith("235 ")
        assert await send(client, "x@y.example") == GOOD
        await client.close()


@pytest_twisted.ensureDeferred
async def test_what_came_in_plain_text_before_tls_is_forgotten(tmp_path: Path) -> None:
    """RFC 3207 §4.2 and §5: commands slipped in behind STARTTLS are not obeyed inside TLS."""
    async with house(tmp_path) as h:
        service = await h.submission()
        secret = await h.credential("known")
        client, _ = await greeted(service.listening["starttls"].port)
        client.send("STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\n" + plain("known", secret) + "\r\n")
        assert (await client.reply()).startswith("220 ")
        assert client.received.count(b"\r\n") == client.received[: client.taken].count(b"\r\n")
        await client.start_tls()
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("503 "), "not even an EHLO is remembered"
        assert (await client.say("EHLO client.test")).startswith("250")
        assert (await client.say("MAIL FROM:<a@b.example>")).startswith("530 ")
        assert (await client.say(plain("known", secret))).startswith("235 ")
        assert (await client.say("STARTTLS")).startswith("503 ")
        assert await send(client, "x@y.example") == GOOD
        await client.close()


@pytest.mark.parametrize(
    "injected", ["NOOP\r\n", "E", "EHLO evil.test\r\nMAIL FROM:<>\r\nRCPT TO:<x@y.example>\r\nDATA"]
)
@pytest_twisted.ensureDeferred
async def test_starttls_injection_however_it_is_cut(tmp_path: Path, injected: str) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        for cut in range(1, len("STARTTLS\r\n") + 1):
            client, _ = await greeted(service.listening["starttls"].port)
            whole = "STARTTLS\r\n" + injected
            client.send(whole[:cut])
            client.send(whole[cut:])
            assert (await client.reply()).startswith("220 ")
            before = len(client.received)
            await client.start_tls()
            assert (await client.say("NOOP")) == "250 2.0.0 Ok"
            assert client.received[before:] == b"250 2.0.0 Ok\r\n"
            await client.close()


@pytest_twisted.ensureDeferred
async def test_smtplib_sends_by_every_port(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        box = await h.mailbox()
        secret = await h.credential(box.id, mailbox=box.id)
        context = ssl.create_default_context(cafile=str(h.pair.certificate))
        mail = "Subject: x\n\n.text\n"

        def capture() -> None:
            with smtplib.SMTP("127.0.0.1", service.listening["capture"].port, timeout=10) as smtp:
                smtp.sendmail("a@b.example", ["x@y.example"], mail)

        def capture_login() -> None:
            with smtplib.SMTP("127.0.0.1", service.listening["capture"].port, timeout=10) as smtp:
                smtp.login(box.id, secret)
                smtp.sendmail("a@b.example", ["x@y.example"], mail)

        def starttls() -> None:
            with smtplib.SMTP("127.0.0.1", service.listening["starttls"].port, timeout=10) as smtp:
                smtp.starttls(context=context)
                smtp.login(box.id, secret)
                smtp.sendmail("a@b.example", ["x@y.example"], mail)

        def tls() -> None:
            with smtplib.SMTP_SSL("localhost", service.listening["tls"].port, timeout=10, context=context) as smtp:
                smtp.login(box.id, secret)
                smtp.sendmail("a@b.example", ["x@y.example"], mail)

        for way in (capture, capture_login, starttls, tls):
            await deferToThread(way)
        entries = await h.spooled(4)
        assert [spooled.mailboxes for spooled, _ in entries] == [(h.inbox.id,)] + [(box.id,)] * 3
        assert [spooled.origin.protocol for spooled, _ in entries] == ["ESMTP", "ESMTPA", "ESMTPSA", "ESMTPSA"]
        assert {content for _, content in entries} == {b"Subject: x\r\n\r\n.text\r\n"}


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
async def test_a_new_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        service = await h.submission()
        port = service.listening["tls"].port

        def fingerprint() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port))

        before = await deferToThread(fingerprint)
        client, _ = await greeted(port, tls=True)
        another: House = House(tmp_path / "another")
        h.pair.certificate.write_bytes(another.pair.certificate.read_bytes())
        h.pair.key.write_bytes(another.pair.key.read_bytes())
        await another.engine.close()
        assert h.tls.reload()
        assert await deferToThread(fingerprint) != before
        assert (await client.say("NOOP")).startswith("250 ")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_tls_ports_without_a_certificate_say_what_to_set(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(ConfigurationError, match="MAILFARM_SUBMISSION_STARTTLS: this port needs a certificate"):
            await h.submission(tls=None)


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_leaves_none_open(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.submission()
        settings = SubmissionSettings(capture=FREE, starttls=None, tls=first.listening["tls"])
        with pytest.raises(ConfigurationError, match="MAILFARM_SUBMISSION_TLS"):
            await h.submission(settings=settings, registry=CollectorRegistry())


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
