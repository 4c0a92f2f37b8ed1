"""Every service a process of its own, on a real Redis for the queue, one for the cache, and a real Postgres."""

from __future__ import annotations

import signal
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from running import Cluster, Service, command, get, until
from servers import Postgres, queue_and_cache
from websocket import WebSocket

from mailfarm.net.tls import dev_certificate
from mailfarm.sdk import Farm

WORDS = ("mx", "submission", "inbound", "inbound", "sweep", "api", "api", "live", "live")


@pytest.fixture(scope="module")
def cluster(
    component: Callable[[str], Path], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Nine processes."""
    component("redis-server")
    with (
        queue_and_cache() as (queue, cache),
        Cluster(tmp_path_factory.mktemp("cluster"), postgres.new_database(), [queue.url], cache.url) as services,
    ):
        services.schema()
        services.start(*WORDS)
        yield services


def all_of(cluster: Cluster, word: str) -> list[Service]:
    return [service for service in cluster.running if service.word == word]


def a_mail(port: int, to: str, subject: str, login: tuple[str, str] | None = None) -> None:
    """Send a mail in plain text, or after STARTTLS with a user and password."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        if login:
            smtp.starttls(context=trusting())
            smtp.login(*login)
        smtp.sendmail("a@shop.example", [to], f"Subject: {subject}\r\n\r\nThe code is 481516.\r\n".encode())


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_what_one_process_takes_the_others_show(cluster: Cluster) -> None:
    (mx,), (submission,) = all_of(cluster, "mx"), all_of(cluster, "submission")
    first, second = all_of(cluster, "api")
    with Farm(first.url, cluster.token) as here, Farm(second.url, cluster.token) as there:
        inbox = here.create_mailbox()
        elsewhere = there.mailbox(inbox.address)
        sockets = [WebSocket(f"{live.where['live']}/v1/events", cluster.token) for live in all_of(cluster, "live")]
        for socket in sockets:
            socket.hear("hello")
            socket.say(op="subscribe", mailbox=inbox.id)
            socket.hear("subscribed")
        a_mail(mx.port("mx"), inbox.address, "by mx")
        assert elsewhere.wait_for(subject="by mx", timeout=20).code() == "481516"
        a_mail(submission.port("smtp", "capture"), inbox.address, "by capture")
        assert elsewhere.wait_for(subject="by capture", timeout=20)
        login = (inbox.smtp.user, inbox.smtp.password)
        a_mail(submission.port("smtp", "starttls"), inbox.address, "by submission", login)
        message = elsewhere.wait_for(subject="by submission", timeout=20)
        assert message.raw.endswith(b"Subject: by submission\r\n\r\nThe code is 481516.\r\n")
        for socket in sockets:
            assert [socket.hear("filed")["seq"] for _ in range(3)] == [1, 2, 3]
            socket.close()


@pytest.mark.parametrize("word", sorted(set(WORDS)))
def test_a_service_may_end_and_begin_again(cluster: Cluster, word: str) -> None:
    for service in all_of(cluster, word):
        assert service.stop() == 0
        service.start()
    (mx,), (first, second) = all_of(cluster, "mx"), all_of(cluster, "api")
    with Farm(first.url, cluster.token) as here, Farm(second.url, cluster.token) as there:
        inbox = here.create_mailbox()
        a_mail(mx.port("mx"), inbox.address, f"after {word}")
        assert there.mailbox(inbox.address).wait_for(timeout=20).subject == f"after {word}"


def test_a_service_says_how_it_is_to_who_asks_on_its_machine(cluster: Cluster) -> None:
    for service in cluster.running:
        assert service.status("healthz") == (200, "ok\n")
        code, text = service.status("readyz")
        assert (code, '"state":"serving"' in text) == (200, True), text
        metrics = service.status("metrics")[1]
        assert "process_resident_memory_bytes" in metrics
        assert "mailfarm_build" in metrics
        asked = command("health", MAILFARM_STATUS_LISTEN=service.status_at)
        assert (asked.returncode, asked.stdout) == (0, "ok\n")


def test_what_is_open_to_the_world_shows_nothing_of_the_inside(cluster: Cluster) -> None:
    api, live = all_of(cluster, "api")[0], all_of(cluster, "live")[0]
    for at in (api.url, str(live.where["live"]).replace("ws://", "http://")):
        assert get(f"{at}/healthz")[0] == 200
        for page in ("readyz", "metrics"):
            assert get(f"{at}/{page}")[0] == 404
    assert get(f"{api.url}/v1/mailboxes")[0] == 401
    assert get(f"{api.url}/v1/mailboxes", {"Host": "evil.example"})[0] == 421
    assert get(f"{api.url}/healthz", {"Host": "10.1.2.3:8025"})[0] == 200  # as a proxy asks
    with pytest.raises(ConnectionRefusedError, match=r" 403 | 421 "):
        WebSocket(f"{live.where['live']}/v1/events", cluster.token, Host="evil.example")


def test_a_service_reads_its_certificate_again_and_goes_at_once_when_told_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    used, newer = tmp_path / "used", tmp_path / "newer"
    pair = dev_certificate(used, "localhost", datetime.now(UTC))
    (submission,) = cluster.start(
        "submission",
        MAILFARM_CERTIFICATE=str(pair.certificate),
        MAILFARM_KEY=str(pair.key),
        MAILFARM_LINGER="60",
    )
    before = shown(submission.port("smtp", "tls"))
    other = dev_certificate(newer, "localhost", datetime.now(UTC))
    pair.key.write_bytes(other.key.read_bytes())
    pair.certificate.write_bytes(other.certificate.read_bytes())
    submission.send_signal(signal.SIGHUP)
    until(lambda: shown(submission.port("smtp", "tls")) != before)
    submission.send_signal(signal.SIGTERM)
    until(lambda: submission.status("healthz")[0] == 503)
    submission.send_signal(signal.SIGTERM)
    assert submission.ended(20) == 0


def shown(port: int) -> bytes:
    """The certificate a client is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        trusting().wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        found = tls.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_before_a_service_goes_it_says_so_and_still_takes_what_comes(cluster: Cluster) -> None:
    with Farm(all_of(cluster, "api")[0].url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        (mx,) = cluster.start("mx", MAILFARM_LINGER="3")
        busy = smtplib.SMTP("127.0.0.1", mx.port("mx"), timeout=30)
        busy.ehlo()
        busy.mail("a@shop.example")
        busy.rcpt(inbox.address)
        busy.docmd("DATA")
        mx.send_signal(signal.SIGTERM)
        until(lambda: mx.status("healthz") == (503, "stopping\n"))
        a_mail(mx.port("mx"), inbox.address, "just in time")  # from a proxy that has not noticed yet
        with smtplib.SMTP("127.0.0.1", mx.port("mx"), timeout=30) as idle:
            idle.ehlo()
            assert idle.getreply()[0] == 421  # when it has closed its port
        busy.send(b"Subject: in the middle\r\n\r\nx\r\n.\r\n")
        assert busy.getreply()[0] == 250
        busy.close()
        assert mx.ended() == 0
        assert {inbox.wait_for(subject=text, timeout=20).subject for text in ("just in time", "in the middle")}
