"""A farm behind HTTPS with an authority of its own: the three clients, the commands and the pytest plugin."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from running import Running
from scenarios import send, settle, upcoming

from mailfarm.net.tls import KeyPair, dev_certificate
from mailfarm.sdk import CannotConnect, Farm
from mailfarm.sdk.verbs import smtp_places

pytest_plugins = "pytester"
Put = Callable[..., Awaitable[None]]
TOKEN = "a-token-that-a-machine-has-made"


class Front:
    """TLS before a port of this machine, as a proxy does it. ``pair`` is its certificate."""

    def __init__(self, target: int, pair: KeyPair) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context))
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}"

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(_carry(reader, back), _carry(there, writer))

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Listen no more."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _carry(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
    finally:
        to.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """A certificate for localhost that nobody else knows."""
    return dev_certificate(tmp_path_factory.mktemp("tls"), "localhost", datetime.now(UTC))


@pytest.fixture(scope="module")
def farm(pair: KeyPair) -> Iterator[Running]:
    """A server that asks for a token, with this certificate on its SMTP ports."""
    names = {"MAILFARM_CERTIFICATE": str(pair.certificate), "MAILFARM_KEY": str(pair.key)}
    with Running(MAILFARM_API_AUTH="token", MAILFARM_API_FIRST_TOKEN=TOKEN, **names) as process:
        yield process


@pytest.fixture(scope="module")
def url(farm: Running, pair: KeyPair) -> Iterator[str]:
    front = Front(farm.port("http"), pair)
    yield front.url
    front.close()


@pytest_twisted.ensureDeferred
async def test_its_authority_is_believed_and_no_other(farm: Running, url: str, pair: KeyPair, put: Put) -> None:
    async def works(client: Any) -> None:
        inbox = await settle(client.create_mailbox())
        events = inbox.events(timeout=30)
        send(farm, inbox.address)
        assert (await upcoming(events)).type == "filed"
        assert (await settle(inbox.wait_for(timeout=10))).subject == "Your reset link"
        if hasattr(events, "aclose"):
            await events.aclose()
        else:
            events.close()

    async def is_not_believed(client: Any) -> None:
        with pytest.raises(CannotConnect, match=r"the certificate of https://.* is not trusted.*MAILFARM_CA"):
            await settle(client.version())

    await put(url, works, token=TOKEN, ca=str(pair.certificate))
    await put(url, is_not_believed, token=TOKEN)


def test_the_commands(
    farm: Running,
    url: str,
    pair: KeyPair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one uses them with a cluster: by HTTPS and a token, and SMTP with TLS and a password."""
    from mailfarm.cli import main

    with Farm(url, TOKEN, ca=pair.certificate) as client:
        inbox = client.create_mailbox()
    (tmp_path / "password").write_text(str(inbox.smtp.password))
    credential = ("--user", str(inbox.smtp.user), "--password-file", str(tmp_path / "password"))
    port = farm.port("smtp", "starttls")
    to = ("--smtp", f"smtp+starttls://localhost:{port}", "--to", inbox.address, *credential)
    monkeypatch.setenv("MAILFARM_URL", url)
    monkeypatch.setenv("MAILFARM_TOKEN", TOKEN)
    assert main(["list"]) == 3
    assert "MAILFARM_CA" in capsys.readouterr().err
    assert main(["send", *to]) == 1
    assert "set MAILFARM_CA" in capsys.readouterr().err
    monkeypatch.setenv("MAILFARM_CA", str(pair.certificate))
    assert main(["send", *to]) == 0
    assert main(["send", "--smtp", f"smtps://localhost:{farm.port('smtp', 'tls')}", *to[2:]]) == 0
    assert main(["wait", inbox.address, "--count", "2", "--code"]) == 0
    assert main(["list", inbox.address]) == 0
    assert main(["show", "latest", "--mailbox", inbox.address]) == 0
    assert "Reset your password" in capsys.readouterr().out
    monkeypatch.setenv("MAILFARM_CA", str(tmp_path / "gone"))
    assert main(["list"]) == 2
    assert "MAILFARM_CA: cannot read" in capsys.readouterr().err


def test_the_pytest_plugin(pytester: pytest.Pytester, url: str, pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URL", url), ("TOKEN", TOKEN), ("CA", str(pair.certificate))):
        monkeypatch.setenv(f"MAILFARM_{name}", value)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile("def test_it(inbox): assert inbox.messages() == [] and inbox.smtp.password")
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_what_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("nothing\n")
    with pytest.raises(ValueError, match="holds no certificate"):
        Farm("https://localhost", ca=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"cannot read .*gone: No such file"):
        Farm("https://localhost", ca=str(tmp_path / "gone"))


def test_a_public_farm_that_tells_nothing_has_the_ports_of_the_rfcs() -> None:
    where = smtp_places({}, "mail.example.org", public=True)
    assert (where.host, where.port, where.starttls_port, where.tls_port) == ("mail.example.org", 25, 587, 465)
    assert smtp_places({"capture": "127.0.0.1:2000"}, "mail.example.org", public=True).port == 2000
