"""Certificates: made for dev, used again, changed without a restart; a broken one never replaces a good one."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailfarm.errors import ConfigurationError
from mailfarm.net.fast_tcp import FastEndpoint
from mailfarm.net.tls import DEV_DAYS, KeyPair, ServerTls, dev_certificate, server_context

NOW = datetime.now(UTC)


class Hello(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")


class Listening:
    def __init__(self, tls: ServerTls) -> None:
        self.factory = TLSMemoryBIOFactory(tls, False, Factory.forProtocol(Hello), reactor)

    async def __aenter__(self) -> int:
        self.port: Any = await FastEndpoint(reactor, "127.0.0.1", 0).listen(self.factory)
        return int(self.port.getHost().port)

    async def __aexit__(self, *_: object) -> None:
        await self.port.stopListening()


def fetch(port: int, context: ssl.SSLContext, name: str = "localhost", session: Any = None) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    wrapped = context.wrap_socket(raw, server_hostname=name, session=session)
    assert wrapped.recv(5) == b"hello"
    return wrapped


def trusting(pair: KeyPair) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.certificate))


def test_the_key_is_for_our_eyes_only(tmp_path: Path) -> None:
    pair = dev_certificate(tmp_path / "tls", "mail.example", NOW)
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["certificate.pem", "key.pem"]


def test_it_is_used_again_while_it_is_good(tmp_path: Path) -> None:
    first = dev_certificate(tmp_path, "a.example", NOW).certificate.read_bytes()
    assert dev_certificate(tmp_path, "a.example", NOW + timedelta(days=300)).certificate.read_bytes() == first


@pytest.mark.parametrize(
    ("hostname", "later"),
    [("b.example", timedelta()), ("a.example", timedelta(days=DEV_DAYS - 7)), ("a.example", timedelta(days=-2))],
    ids=["another name", "nearly over", "the clock was wrong"],
)
def test_it_is_made_anew_when_it_is_not(tmp_path: Path, hostname: str, later: timedelta) -> None:
    first = dev_certificate(tmp_path, "a.example", NOW).certificate.read_bytes()
    pair = dev_certificate(tmp_path, hostname, NOW + later)
    assert pair.certificate.read_bytes() != first
    server_context(pair)


@pytest.mark.parametrize("damage", ["certificate", "key", "both"])
def test_damaged_files_are_made_anew(tmp_path: Path, damage: str) -> None:
    pair = dev_certificate(tmp_path, "a.example", NOW)
    if damage != "key":
        pair.certificate.write_bytes(b"rubbish")
    if damage != "certificate":
        pair.key.unlink()
    server_context(dev_certificate(tmp_path, "a.example", NOW))


def test_a_key_that_does_not_fit_its_certificate_is_made_anew(tmp_path: Path) -> None:
    pair = dev_certificate(tmp_path / "a", "a.example", NOW)
    pair.key.write_bytes(dev_certificate(tmp_path / "b", "a.example", NOW).key.read_bytes())
    server_context(dev_certificate(tmp_path / "a", "a.example", NOW))


@pytest_twisted.ensureDeferred
async def test_clients_that_trust_it_are_content(tmp_path: Path) -> None:
    pair = dev_certificate(tmp_path, "mail.example", NOW)
    context = trusting(pair)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    async with Listening(ServerTls(pair)) as port:
        for name in ("localhost", "mail.example", "127.0.0.1", "::1"):
            with await deferToThread(fetch, port, context, name) as connection:
                assert connection.version() == "TLSv1.3"


@pytest_twisted.ensureDeferred
async def test_old_versions_are_refused(tmp_path: Path) -> None:
    tls = ServerTls(dev_certificate(tmp_path, "localhost", NOW))

    def attempt(port: int) -> str:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.settimeout(None)
            connection = SSL.Connection(context, raw)
            connection.set_connect_state()
            try:
                connection.do_handshake()
            except SSL.Error:
                return "refused"
            return "taken"

    async with Listening(tls) as port:
        assert await deferToThread(attempt, port) == "refused"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest_twisted.ensureDeferred
async def test_sessions_are_resumed_by_ticket(tmp_path: Path, version: ssl.TLSVersion) -> None:
    pair = dev_certificate(tmp_path, "localhost", NOW)
    context = trusting(pair)
    context.minimum_version = context.maximum_version = version
    async with Listening(ServerTls(pair)) as port:
        with await deferToThread(fetch, port, context) as connection:
            session = connection.session
        assert session.has_ticket
        with await deferToThread(fetch, port, context, "localhost", session) as connection:
            assert connection.session_reused


@pytest_twisted.ensureDeferred
async def test_a_reload_gives_new_connections_the_new_certificate(tmp_path: Path) -> None:
    old = dev_certificate(tmp_path / "old", "localhost", NOW)
    new = dev_certificate(tmp_path / "new", "localhost", NOW)
    before, after = trusting(old), trusting(new)
    tls = ServerTls(old)
    async with Listening(tls) as port:
        with await deferToThread(fetch, port, before) as open_before:
            old.certificate.write_bytes(new.certificate.read_bytes())
            old.key.write_bytes(new.key.read_bytes())
            assert tls.reload()
            (await deferToThread(fetch, port, after)).close()
            assert open_before.version() == "TLSv1.3", "the open one lives on"
            with pytest.raises(ssl.SSLCertVerificationError):
                await deferToThread(fetch, port, before)


@pytest_twisted.ensureDeferred
async def test_a_broken_new_file_keeps_the_old_certificate(tmp_path: Path) -> None:
    pair = dev_certificate(tmp_path, "localhost", NOW)
    context = trusting(pair)
    tls = ServerTls(pair)
    said: list[Any] = []
    globalLogPublisher.addObserver(said.append)
    try:
        pair.certificate.write_text("rubbish")
        assert not tls.reload()
        pair.certificate.unlink()
        assert not tls.reload()
    finally:
        globalLogPublisher.removeObserver(said.append)
    errors = [event for event in said if event["log_level"] is LogLevel.error]
    assert len(errors) == 2
    assert "holds no PEM certificate" in errors[0]["error"]
    assert "No such file" in errors[1]["error"]
    async with Listening(tls) as port:
        (await deferToThread(fetch, port, context)).close()


def test_what_is_wrong_with_the_files_is_said(tmp_path: Path) -> None:
    pair = dev_certificate(tmp_path / "a", "localhost", NOW)
    other = dev_certificate(tmp_path / "b", "localhost", NOW)
    for broken, words in (
        (KeyPair(tmp_path / "no.pem", pair.key), "cannot read .*no.pem: No such file"),
        (KeyPair(pair.key, pair.key), "holds no PEM certificate chain"),
        (KeyPair(pair.certificate, pair.certificate), "holds no PEM private key"),
        (KeyPair(pair.certificate, other.key), "does not belong to the certificate"),
        (KeyPair(pair.certificate, tmp_path), "cannot read .*: Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ServerTls(broken)


def test_an_encrypted_key_is_refused_and_asks_for_nothing(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    pair = dev_certificate(tmp_path, "localhost", NOW)
    key: Any = s.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")))
    done: list[str] = []

    def attempt() -> None:
        try:
            server_context(pair)
        except ConfigurationError as error:
            done.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert done
    assert "without a passphrase" in done[0]
