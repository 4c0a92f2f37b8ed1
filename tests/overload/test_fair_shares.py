"""A noisy credential beside a quiet one, at a real submission process whose workers cannot keep up."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from running import Cluster, get, until
from servers import Postgres, queue_and_cache

from mailfarm.sdk import Farm

PACE = 60
"""Messages a second that the worker takes."""
NOISY = 20
"""Sessions of the noisy credential, each of which sends as fast as it can."""
WORKER = Path(__file__).with_name("slow_worker.py")


@dataclass
class Sending:
    """What a credential's sessions were answered. ``seconds`` are from MAIL to the 250."""

    accepted: int = 0
    refused: int = 0
    replies: set[bytes] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    refused_before: int = 0
    accepted_before: int = 0

    def clear(self) -> None:
        self.accepted = self.refused = 0
        self.seconds.clear()


class Sender(threading.Thread):
    """One session, a message every ``every`` seconds at most, until ``stop`` is set."""

    def __init__(self, port: int, login: tuple[str, str], to: str, said: Sending, every: float) -> None:
        super().__init__(daemon=True)
        self.port, self.login, self.to, self.said, self.every = port, login, to, said, every
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._session()
            except (OSError, smtplib.SMTPException):  # it was not greeted, or cut: it comes again
                self.said.refused += 1
                self.stop.wait(0.2)

    def _session(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as smtp:
            smtp.starttls(context=context)
            smtp.login(*self.login)
            while not self.stop.wait(self.every):
                began = time.monotonic()
                code, text = smtp.mail("a@shop.example")
                if code == 250:
                    smtp.rcpt(self.to)
                    code, text = smtp.docmd("DATA")
                if code == 354:
                    smtp.send(b"Subject: x\r\n\r\ntext\r\n.\r\n")
                    code, text = smtp.getreply()
                if code == 250:
                    self.said.accepted += 1
                    self.said.seconds.append(time.monotonic() - began)
                else:
                    self.said.refused += 1
                    self.said.replies.add(b"%d %s" % (code, text))
                    smtp.rset()


def in_a_row(said: Sending) -> int:
    """How many were accepted since the last refusal."""
    if said.refused != said.refused_before:
        said.refused_before, said.accepted_before = said.refused, said.accepted
    return said.accepted - said.accepted_before


@pytest.fixture
def cluster(component: Callable[[str], Path], postgres: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    """submission and api, on stores of their own, and a worker that is slow."""
    component("redis-server")
    with (
        queue_and_cache() as (queue, cache),
        Cluster(tmp_path, postgres.new_database(), [queue.url], cache.url, MAILFARM_BACKLOG_AGE="5") as services,
        subprocess.Popen([sys.executable, WORKER, queue.url, str(PACE)]) as worker,
    ):
        try:
            services.schema()
            services.start("submission", "api")
            yield services
        finally:
            worker.kill()


def test_a_quiet_credential_is_served_beside_one_that_sends_as_fast_as_it_can(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    submission, api = cluster.services
    port = submission.port("smtp", "starttls")

    def metric(name: str) -> float:
        line = next(line for line in submission.status("metrics")[1].splitlines() if line.startswith(f"{name} "))
        return float(line.split()[1])

    with Farm(api.url, cluster.token) as farm:
        boxes = [farm.create_mailbox() for _ in range(2)]
    noisy, quiet = Sending(), Sending()
    logins = [(box.smtp.user, box.smtp.password) for box in boxes]
    few = [Sender(port, logins[0], boxes[0].address, quiet, 0.25)]
    many = [Sender(port, logins[1], boxes[1].address, noisy, 0.0) for _ in range(NOISY)]
    for sender in few:
        sender.start()
    until(lambda: quiet.accepted >= 4, 30)
    for sender in many:
        sender.start()
    try:
        until(lambda: metric("mailfarm_submission_share") > 0, 60)
        until(lambda: noisy.refused >= NOISY, 60)
        quiet.accepted_before = quiet.accepted  # from here on
        until(lambda: in_a_row(quiet) >= 8, 60)  # the share is found
        quiet.clear()
        noisy.clear()
        until(lambda: quiet.accepted + quiet.refused >= 20, 60)
    finally:
        for sender in many:
            sender.stop.set()
    median = sorted(quiet.seconds)[len(quiet.seconds) // 2]
    figures = {
        "quiet accepted": quiet.accepted,
        "quiet refused": quiet.refused,
        "noisy accepted": noisy.accepted,
        "noisy refused": noisy.refused,
        "quiet, MAIL to 250, median ms": round(1000 * median),
        "submission, MiB": submission.rss() >> 20,
    }
    for name, value in figures.items():
        record_property(name, value)
        print(f"{name:32} {value}")
    assert quiet.accepted >= 18, figures
    assert noisy.refused > 0
    assert all(reply.startswith(b"451 4.3.2 More mail comes in than can be filed") for reply in noisy.replies)
    # and it is over by itself
    until(lambda: metric("mailfarm_submission_share") == -1, 60)
    refused = quiet.refused
    sent = quiet.accepted
    until(lambda: quiet.accepted >= sent + 4, 30)
    assert quiet.refused == refused
    for sender in few:
        sender.stop.set()
    for sender in few + many:
        sender.join(30)
    assert get(f"http://{submission.status_at}/healthz")[0] == 200
