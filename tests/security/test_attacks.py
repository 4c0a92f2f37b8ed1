"""Attacks on a farm that runs as its users run it; most cases have their tests beside the part they are about
(``cases.toml`` has them all)."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import houses
import pytest
from houses import MARK, Place, ask, bearer
from running import Cluster, Running, until
from servers import Postgres, queue_and_cache

NO_END = [
    b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
]  # fmt: skip
"""Each has ended DATA in some server; none is CR LF . CR LF (RFC 5321 §4.1.1.4)."""
SMUGGLED = (
    b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<smuggled@mailfarm.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"
)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One ``mailfarm dev`` with tokens; it takes messages of 100,000 octets."""
    settings = {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": houses.ALPHA, "MAILFARM_MAX_SIZE": "100000"}
    with Running(tmp_path_factory.mktemp("attacked") / "data", **settings) as running:
        yield Place("dev", [running.url], [], running.port("smtp", "capture"), running.port("mx"))


def sends(port: int, *pieces: bytes, seconds: float = 20) -> bytes:
    """All that is answered to these octets, sent as so many writes, until the other side ends."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(0.002)  # so that they arrive as two; no answer depends on it
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while data := client.recv(65536):
                heard += data
    return heard


@pytest.mark.parametrize("size", ["small", "too big"])
@pytest.mark.parametrize("sequence", NO_END, ids=repr)
def test_nothing_but_crlf_dot_crlf_ends_data(farm: Place, sequence: bytes, size: str) -> None:
    """With a whole mail pipelined behind, cut at every octet: there is one message, and it is refused."""
    mailbox = farm.ask("POST", "/v1/mailboxes", {"address": f"smuggled.{time.monotonic_ns()}@mailfarm.test"}).json
    begin = b"EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<%b>\r\nDATA\r\n" % mailbox["address"].encode()
    body = b"Subject: x\r\n\r\ntext" + (b"y" * 998 + b"\r\n") * (120 if size == "too big" else 0)
    smuggled = SMUGGLED.replace(b"smuggled@mailfarm.test", mailbox["address"].encode())
    wire = begin + body + sequence + smuggled + b"QUIT\r\n"
    at = len(begin) + len(body)
    for cut in range(len(sequence) + 1):
        for port in (farm.capture, farm.mx):
            heard = sends(port, wire[: at + cut], wire[at + cut :])
            final = heard[heard.index(b"354 ") :].split(b"\r\n")[1]
            assert final[:4] in (b"550 ", b"552 "), heard
            assert heard.count(b"354 ") == 1, heard
    messages = farm.ask("GET", f"/v1/mailboxes/{mailbox['id']}/messages").json["messages"]
    assert messages == []


def test_the_smuggled_mail_is_a_good_one(farm: Place) -> None:
    """Else that nothing came would prove nothing."""
    box = farm.ask("POST", "/v1/mailboxes", {"address": "smuggled@mailfarm.test"}).json
    heard = sends(farm.mx, b"EHLO a.example\r\n" + SMUGGLED + b"QUIT\r\n")
    assert b"250 2.0.0" in heard
    assert farm.ask("GET", f"/v1/mailboxes/{box['id']}/wait?timeout=20").status == 200


def test_nothing_sent_before_tls_is_heard_after_it(farm: Place) -> None:
    """STARTTLS with commands behind it in the same packet (CVE-2011-0411)."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", farm.mx), 20) as client:
        client.recv(4096)
        client.sendall(b"EHLO a.example\r\n")
        while b"250 " not in client.recv(4096):
            pass
        client.sendall(b"STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@b.example>\r\nRSET\r\n")
        assert client.recv(4096).startswith(b"220 ")
        with context.wrap_socket(client) as inside:
            inside.sendall(b"NOOP\r\nMAIL FROM:<a@b.example>\r\n")
            heard = b""
            while heard.count(b"\r\n") < 2:
                heard += inside.recv(4096)
    assert heard.startswith(b"250 2.0.0")
    assert b"\r\n503 5.5.1 EHLO" in heard  # neither EHLO before counts


TWO_LENGTHS = (
    b"Content-Length: 2\r\nContent-Length: 44\r\n",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n",
    b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n",
    b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 2\r\n",
    b" Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: 2,2\r\n",
    b"Content-Length: 0x2\r\n",
    b"Content-Length: 2\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: \xb2\r\n",
)


@pytest.mark.parametrize("lengths", TWO_LENGTHS, ids=repr)
def test_no_request_hides_in_the_body_of_another(farm: Place, lengths: bytes) -> None:
    """Request smuggling (RFC 9112 §11.2): where a proxy and we could disagree on a length, there is one answer."""
    head = b"POST /v1/mailboxes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    hidden = b"GET /v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    port = urlsplit(farm.url).port or 0
    heard = sends(port, head + farm.alpha.encode() + b"\r\n" + lengths + b"\r\n{}" + hidden)
    assert heard.count(b"HTTP/1.1 ") <= 1 or b"no-such-route" not in heard, heard
    assert b"HTTP/1.1 201 " not in heard, heard
    if lengths.startswith(b" "):  # a line that goes on with the one before
        assert heard.startswith(b"HTTP/1.1 400 "), heard


@pytest.mark.parametrize(
    "chunk",
    [
        b"2;\n\r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n",
        b" 2\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
    ],
)
def test_odd_chunks_end_the_connection(farm: Place, chunk: bytes) -> None:
    head = b"POST /v1/mailboxes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer "
    wire = (
        head + farm.alpha.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"GET /v1/x HTTP/1.1\r\n\r\n"
    )
    heard = sends(urlsplit(farm.url).port or 0, wire)
    assert b"HTTP/1.1 201 " not in heard, heard
    assert heard.count(b"HTTP/1.1 ") <= 1, heard


def test_what_a_stranger_wrote_is_shown_in_a_sandbox(farm: Place) -> None:
    """Every route that gives out what was in a mail."""
    _, message = farm.furnish()
    parts = farm.ask("GET", f"/v1/messages/{message}").json["parts"]
    paths = ["raw", "text", "html", *(f"parts/{part['n']}" for part in parts if part["size"] is not None)]
    assert len(paths) == 6
    for path in paths:
        answer = farm.ask("GET", f"/v1/messages/{message}/{path}")
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("sandbox;"), path
        assert "default-src 'none'" in policy
        assert "allow-" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert MARK not in str({**answer.headers, "content-disposition": ""})
        if path == "raw" or path.startswith("parts"):
            assert answer.headers["content-disposition"].startswith("attachment"), path


def test_folders_cannot_be_left(farm: Place) -> None:
    for path in (
        "/../setup.cfg", "/%2e%2e/setup.cfg", "/..%2fsetup.cfg", "/.%2e/setup.cfg", "/%252e%252e/setup.cfg",
        "//etc/passwd", "/..%5csetup.cfg", "/app.js%00.png", "/./app.js/", "/.git/config", "/web/../../setup.cfg",
        "/file:///etc/passwd.txt", "/C:/windows.txt",
    ):  # fmt: skip
        answer = ask(farm.url, "GET", path)
        assert answer.status in (400, 404), (path, answer.status)
        assert b"root:" not in answer.body
        assert b"metadata" not in answer.body


@pytest.fixture(scope="module")
def alone(
    component: Callable[[str], Path], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A live and an mx, each by itself."""
    component("redis-server")
    with (
        queue_and_cache() as (queue, cache),
        Cluster(tmp_path_factory.mktemp("services"), postgres.new_database(), [queue.url], cache.url) as cluster,
    ):
        cluster.schema()
        cluster.start("live", "mx")
        yield cluster


def pages(cluster: Cluster) -> list[tuple[int, str]]:
    """The ports that take no body, and the path of something there."""
    live, mx = cluster.services
    return [(live.port("live"), "/v1/events"), (int(mx.status_at.rpartition(":")[2]), "/metrics")]


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999", b"Transfer-Encoding: chunked"])
def test_who_sends_a_body_without_end_is_cut_off_and_nothing_of_it_kept(alone: Cluster, length: bytes) -> None:
    """twisted.web by itself would write it to a file until the disk is full."""
    for port, path in pages(alone):
        sent = 0
        with socket.create_connection(("127.0.0.1", port), 20) as client, suppress(OSError):
            client.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (path.encode(), length))
            while sent < 200:
                client.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
                sent += 1
        assert sent < 100, f"{sent} MB were taken"
    for service in alone.services:
        kept = [
            link for link in Path(f"/proc/{service.process.pid}/fd").iterdir() if "(deleted)" in str(link.resolve())
        ]
        until(lambda kept=kept: all(link.stat().st_size < 2 << 20 for link in kept if link.exists()))


def test_no_name_that_was_rebound_to_us_reads_what_is_for_this_machine(alone: Cluster) -> None:
    for port, path in pages(alone):
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", ""):
            answer = ask(f"http://127.0.0.1:{port}", "GET", path, Host=host)
            assert (answer.status, answer.problem) == (421, "wrong-host")
        assert ask(f"http://127.0.0.1:{port}", "GET", path, Host="localhost").status != 421
        assert ask(f"http://127.0.0.1:{port}", "GET", "/healthz", Host="10.1.2.3").status == 200
        for target in (b"*", b"http://evil.example/metrics"):
            heard = sends(port, b"OPTIONS %b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n" % target)
            assert not heard.startswith(b"HTTP/1.1 2"), heard


def test_a_file_name_and_a_subject_cannot_write_headers(farm: Place) -> None:
    """CR LF in encoded words and parameters, shown as an HTTP header and as JSON."""
    box = farm.ask("POST", "/v1/mailboxes", {}).json
    mail = (
        b"Subject: =?utf-8?q?a=0D=0ASet-Cookie:_x=3D1?=\r\nFrom: =?utf-8?q?b=0D=0AX:_y?= <a@b.example>\r\n"
        b"Content-Type: application/pdf; name*=utf-8''a%0D%0ASet-Cookie:%20x=1.pdf\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''a%0D%0ASet-Cookie:%20x=1%22.pdf\r\n\r\nx\r\n.\r\n"
    )
    begin = b"EHLO a.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<%b>\r\nDATA\r\n" % box["address"].encode()
    assert b"250 2.0.0" in sends(farm.capture, begin + mail + b"QUIT\r\n")
    found = farm.ask("GET", f"/v1/mailboxes/{box['id']}/wait?timeout=20").json["messages"][0]
    assert "\r" not in found["subject"] + found["from"]["name"]
    assert "\n" not in found["subject"] + found["from"]["name"]
    answer = ask(farm.url, "GET", f"/v1/messages/{found['id']}/parts/1", **bearer(farm.alpha))
    assert answer.status == 200
    assert "set-cookie" not in answer.headers
    assert "\n" not in answer.headers["content-disposition"]
