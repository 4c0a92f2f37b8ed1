"""submission: who may come in. Guessing does not pay, and what came too late or was never proved gets nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import wait_until
from smtp_house import ALL, FREE, house
from submission_client import GOOD, greeted, plain, send
from test_mx import proxy_header
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from mailfarm.accounts.limit_sets import read
from mailfarm.accounts.store import credentials, revoke_credential
from mailfarm.config import SubmissionSettings
from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.smtp_server import Caps
from mailfarm.services.submission import login


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
