"""The client of ``mailfarm send``, and TLS that begins in the middle: what came before it counts for nothing (RFC 3207
§4.2), neither what the server could do nor replies that somebody on the way has put behind the 220."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailfarm.net.tls import dev_certificate
from mailfarm.sdk.sending import Server, connect

SECRET = "the-password-0123456789"
PUT_IN = b"250-mx.example\r\n250 AUTH PLAIN LOGIN\r\n"


class Talk(threading.Thread):
    """One session of a server that offers AUTH before TLS and, with ``inside``, after it; ``put_in`` is sent in the
    packet of the reply to STARTTLS. ``heard`` is what it was told, ``secure`` that of it which came through TLS."""

    def __init__(self, context: ssl.SSLContext, put_in: bytes, inside: bytes) -> None:
        super().__init__(daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._context, self._put_in, self._inside = context, put_in, inside
        self.heard: list[bytes] = []
        self.secure: list[bytes] = []

    def run(self) -> None:
        client, _ = self._listening.accept()
        with self._listening, client:
            client.settimeout(20)
            client.sendall(b"220 mx.example\r\n")
            self.heard.append(client.recv(1000))
            client.sendall(b"250-mx.example\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n")
            self.heard.append(client.recv(1000))
            client.sendall(b"220 go on\r\n" + self._put_in)
            with self._context.wrap_socket(client, server_side=True) as inside:
                while data := inside.recv(1000):
                    self.secure.append(data)
                    hello = data.upper().startswith(b"EHLO")
                    inside.sendall(b"250-mx.example\r\n" + self._inside + b"250 HELP\r\n" if hello else b"235 in\r\n")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    made = dev_certificate(tmp_path, "localhost", datetime.now(UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    return made.certificate, context


@pytest.fixture(params=[b"", PUT_IN], ids=["alone", "with replies behind the 220"])
def put_in(request: pytest.FixtureRequest) -> bytes:
    given: bytes = request.param
    return given


def test_what_was_said_before_tls_counts_for_nothing(pair: tuple[Path, ssl.SSLContext], put_in: bytes) -> None:
    authority, context = pair
    talk = Talk(context, put_in, inside=b"")
    talk.start()
    where = Server("localhost", talk.port, "starttls", "user", SECRET, ca=str(authority))
    with pytest.raises(smtplib.SMTPNotSupportedError):
        connect(where)
    talk.join(20)
    assert [line.split()[0].upper() for line in talk.heard] == [b"EHLO", b"STARTTLS"]
    assert [line.split()[0].upper() for line in talk.secure] == [b"EHLO"]


def test_it_signs_in_where_that_is_offered_inside_tls(pair: tuple[Path, ssl.SSLContext], put_in: bytes) -> None:
    authority, context = pair
    talk = Talk(context, put_in, inside=b"250-AUTH PLAIN\r\n")
    talk.start()
    connect(Server("localhost", talk.port, "starttls", "user", SECRET, ca=str(authority))).close()
    talk.join(20)
    assert [line.split()[0].upper() for line in talk.secure] == [b"EHLO", b"AUTH"]
