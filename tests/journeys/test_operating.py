"""What an operator sees: health, metrics, certificates, memory, and the log."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from running import Running, until

from mailfarm.sdk import Farm

MB = 1024 * 1024


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def certificate(port: int) -> bytes:
    """What a TLS client is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def test_health_readiness_and_metrics() -> None:
    with Running() as running:
        with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
            smtp.sendmail("a@shop.example", ["b@shop.example"], b"Subject: counted\r\n\r\nx\r\n")
        assert get(f"{running.url}/healthz")[0] == 200
        status, ready = get(f"{running.url}/readyz")
        assert (status, json.loads(ready)["checks"]) == (200, {"database": "ok", "queue": "ok"})
        filed = until(
            lambda: 'mailfarm_inbound_messages_total{outcome="filed"} 1.0' in get(f"{running.url}/metrics")[1]
        )
        assert filed
        metrics = get(f"{running.url}/metrics")[1]
        for word in ("mx", "submission", "inbound", "sweep", "api", "live"):
            assert f"mailfarm_{word}_" in metrics


def test_healthz_says_503_while_a_transaction_holds_up_the_end() -> None:
    with Running() as running:
        busy = smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"))
        busy.ehlo()
        busy.mail("a@shop.example")
        busy.rcpt("b@shop.example")
        running.process.send_signal(signal.SIGTERM)
        until(lambda: get(f"{running.url}/healthz")[0] == 503)
        assert busy.rset()[0] == 250
        assert busy.getreply()[0] == 421
        busy.close()


def test_a_new_certificate_is_shown_after_sighup(tmp_path: Path) -> None:
    folder, other = tmp_path / "data", tmp_path / "other"
    Running(other).stop()  # it makes a certificate of its own
    with Running(folder) as running:
        port = running.port("smtp", "tls")
        before = certificate(port)
        for name in ("key.pem", "certificate.pem"):
            (folder / name).write_bytes((other / name).read_bytes())
        running.process.send_signal(signal.SIGHUP)
        until(lambda: certificate(port) != before)
        (folder / "certificate.pem").write_text("nonsense")
        after = certificate(port)
        running.process.send_signal(signal.SIGHUP)
        assert certificate(port) == after  # a broken one changes nothing


def test_the_log_is_one_json_object_a_line_and_has_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "log"
    token = "first-token-0123456789abcdefgh"
    settings = {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": token, "MAILFARM_LOG_LEVEL": "debug"}
    with Running(tmp_path / "data", log, **settings) as running, Farm(running.url, token) as farm:
        inbox = farm.create_mailbox()
        with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
            smtp.login(inbox.smtp.user, inbox.smtp.password)
            smtp.sendmail("a@shop.example", ["b@shop.example"], b"Subject: logged\r\n\r\nbody\r\n")
        with (
            smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp,
            pytest.raises(smtplib.SMTPAuthenticationError),
        ):
            smtp.login(inbox.smtp.user, "wrong-secret-0123")
        inbox.wait_for(timeout=5)
        password = inbox.smtp.password
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "namespace"} <= line.keys() for line in lines)
    for secret in (token, password, "wrong-secret-0123"):
        assert secret not in text


def test_fifty_large_messages_at_once_cost_tens_of_megabytes(tmp_path: Path) -> None:
    """Fifty clients are each forty-eight megabytes into a message, at the same time."""
    count, octets = 50, 48 * MB
    piece = b"0123456789abcdef" * 4 + b"\r\n"
    block = piece * (MB // len(piece))
    with Running(tmp_path / "data") as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        clients = [smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"), timeout=120) for _ in range(count)]
        for client in clients:
            client.ehlo()
            client.mail("a@shop.example")
            client.rcpt(inbox.address)
            assert client.docmd("DATA")[0] == 354
        before = running.rss()

        def send(client: smtplib.SMTP) -> None:
            client.send(b"Subject: large\r\n\r\n")
            for _ in range(octets // len(block)):
                client.send(block)

        threads = [threading.Thread(target=send, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        peak = before
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, running.rss())
            threads[0].join(0.05)
            for thread in threads:
                thread.join(0)
        peak = max(peak, running.rss())
        for client in clients[1:]:
            client.close()
        clients[0].send(b".\r\n")
        assert clients[0].getreply()[0] == 250
        clients[0].close()
        filing = peak
        while not inbox.messages():
            filing = max(filing, running.rss())
        assert inbox.wait_for(subject="large", timeout=60).size > octets - MB
    assert filing - before < 4 * octets, f"filing it took {(filing - before) / MB:.0f} MB"
    assert peak - before < 100 * MB, f"{(peak - before) / MB:.0f} MB"
