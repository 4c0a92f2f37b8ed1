"""The load generator under TLS, against mailfarm's own SMTP edge in a process of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from children import Child, edge
from generator import Plan
from load import main, run
from sink import TrivialSink
from smtp_dialog import Options

from mailfarm.net.tls import dev_certificate

_REPLIES = {
    b"EHLO": b"250-sink\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
    b"STARTTLS": b"220 2.0.0 Go\r\n",
    b"DATA": b"354 Go\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}


class TlsSink:
    """A blocking SMTP server, a thread a connection, with implicit TLS or STARTTLS."""

    def __init__(self, folder: Path, implicit: bool) -> None:
        pair = dev_certificate(folder, "localhost", datetime.now(UTC))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._implicit = implicit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.contents = 0
        self.commands: list[bytes] = []
        self.before: list[bytes] = []

    def serve(self, connections: int, proxied: bool = False) -> None:
        def each() -> None:
            for _ in range(connections):
                sock, _ = self._listener.accept()
                sock.settimeout(10)
                thread = threading.Thread(target=self._talk, args=(sock, proxied))
                thread.start()
                self._threads.append(thread)

        self._threads.append(threading.Thread(target=each))
        self._threads[0].start()

    def _talk(self, sock: socket.socket, proxied: bool) -> None:
        if proxied:
            self.before.append(sock.recv(28, socket.MSG_WAITALL))
        if self._implicit:
            sock = self._context.wrap_socket(sock, server_side=True)
        sock.sendall(b"220 sink\r\n")
        if self._answer_all(sock):
            sock = self._context.wrap_socket(sock, server_side=True)
            self._answer_all(sock)
        sock.close()

    def _answer_all(self, sock: socket.socket) -> bool:
        """True when TLS is to start."""
        with sock.makefile("rb") as lines:
            for line in lines:
                self.commands.append(line)
                verb = line.split()[0]
                sock.sendall(_REPLIES.get(verb, b"250 Ok\r\n"))
                if verb == b"STARTTLS":
                    return True
                if verb == b"DATA":
                    while lines.readline() != b".\r\n":
                        pass
                    self.contents += 1
                    sock.sendall(b"250 2.0.0 Ok\r\n")
        return False

    def end(self) -> None:
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_tls(tmp_path: Path, security: str) -> None:
    sink = TlsSink(tmp_path, security == "tls")
    sink.serve(2)
    options = Options(security=security, pipelining=True)
    result = run(Plan("127.0.0.1", sink.port, options, sessions=2, messages=10, size="100000", timeout=10.0))
    sink.end()
    assert not result.errors
    assert result.messages == sink.contents == 10
    assert sink.commands.count(b"EHLO load.shop.example\r\n") == (2 if security == "tls" else 4)


def test_a_proxy_header_goes_before_tls(tmp_path: Path) -> None:
    sink = TlsSink(tmp_path, implicit=True)
    sink.serve(1, proxied=True)
    options = Options(security="tls", source="198.51.100.7")
    result = run(Plan("127.0.0.1", sink.port, options, sessions=1, messages=2, timeout=10.0))
    sink.end()
    assert not result.errors
    assert result.messages == 2
    assert sink.before[0].startswith(b"\r\n\r\n\0\r\nQUIT\n")
    assert socket.inet_ntoa(sink.before[0][16:20]) == "198.51.100.7"


@pytest.fixture
def smtp_edge() -> Iterator[Child]:
    with edge() as child:
        yield child


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("pipelining", [True, False])
def test_the_edge_answers_everything_in_order(smtp_edge: Child, kept: bool, pipelining: bool) -> None:
    recipients = tuple(f"rcpt{number}@mailfarm.test" for number in range(10))
    options = Options(recipients, kept=kept, pipelining=pipelining)
    result = run(Plan("127.0.0.1", smtp_edge.smtp, options, sessions=10, messages=100, size="mixed", timeout=10.0))
    assert not result.errors
    assert result.messages == 100
    assert smtp_edge.cpu_seconds > 0
    assert smtp_edge.peak_mib > 10


def test_the_generator_knows_its_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    with TrivialSink():
        pass  # ends what it started
    assert main(["--ceiling", "--messages", "200", "--sessions", "5"]) == 0
    assert '"messages": 200' in capsys.readouterr().out
