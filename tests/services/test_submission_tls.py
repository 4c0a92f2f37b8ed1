"""submission: STARTTLS with nothing smuggled in before it, certificates, and the ports."""

from __future__ import annotations

import smtplib
import ssl
from pathlib import Path

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from smtp_house import FREE, House, house
from submission_client import GOOD, greeted, plain, secured, send
from twisted.internet.threads import deferToThread

from mailfarm.config import Address, SubmissionSettings
from mailfarm.errors import ConfigurationError


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
