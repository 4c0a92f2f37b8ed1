"""A message whose parsing never ends: it is kept as it is, its worker ends and is started again, and nobody else's mail
waits for it. The parser of a real worker is broken on purpose."""

from __future__ import annotations

import signal
import smtplib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Cluster, Service, until
from servers import Redis

from mailfarm.sdk import Farm, Inbox

LONGEST = 2
PLANTED = f"""
import re, sys
from mailfarm import process
from mailfarm.inbound import pipeline
from mailfarm.services import inbound
inbound.LONGEST = process._TURN = {LONGEST}.0
real = pipeline.parse
def parse(content):
    if b"it-spins" in content:
        while True:
            pass
    if b"it-holds-everything" in content:
        re.match("(a+)+$", "a" * 90 + "b")
    return real(content)
pipeline.parse = parse
from mailfarm.__main__ import main
sys.exit(main())
"""


class Hanging(Service):
    """A worker whose parser hangs at some mail."""

    program = (sys.executable, "-c", PLANTED)


@pytest.fixture
def cluster(tmp_path: Path, redis: Redis, postgres_database: str) -> Iterator[Cluster]:
    with Cluster(tmp_path, postgres_database, [redis.url], redis.url, MAILFARM_INBOUND_LEASE="2") as made:
        yield made


@pytest.fixture
def worker(cluster: Cluster) -> Service:
    made = cluster.service("inbound")
    made.__class__ = Hanging
    return made


def send(mx: Service, inbox: Inbox, subject: str, body: str, size: int = 0) -> bytes:
    content = f"Subject: {subject}\r\n\r\n{body}\r\n".encode()
    content += b"x\r\n" * max(0, (size - len(content)) // 3)
    with smtplib.SMTP("127.0.0.1", mx.port("mx")) as smtp:
        smtp.sendmail("a@shop.example", inbox.address, content)
    return content


def subjects(inbox: Inbox) -> list[str]:
    return sorted(message.subject for message in inbox.messages())


def test_one_that_hangs_in_a_thread_is_kept_as_it_is_and_its_worker_ends_in_order(
    cluster: Cluster, worker: Service
) -> None:
    mx, api = cluster.start("mx", "api")
    with Farm(api.url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        worker.start()
        content = send(mx, inbox, "hangs", "it-spins", 100_000)
        send(mx, inbox, "another", "x")
        until(lambda: subjects(inbox) == ["another"], 20)  # meanwhile
        assert worker.ended(20 * LONGEST) == 1
        assert f"mailfarm inbound: a message was parsed for {LONGEST} s and hangs" in worker.log()
        assert subjects(inbox) == ["another", "hangs"]
        (hung,) = (message for message in inbox.messages() if message.subject == "hangs")
        assert hung.raw.endswith(content)
        worker.start()
        send(mx, inbox, "later", "x")
        until(lambda: subjects(inbox) == ["another", "hangs", "later"], 20)
        assert worker.stop() == 0


@pytest.mark.parametrize("size", [0, 100_000], ids=["on the spot", "in a thread"])
def test_one_that_holds_everything_up_ends_its_worker_and_is_kept_as_it_is_in_the_end(
    cluster: Cluster, worker: Service, size: int
) -> None:
    mx, api = cluster.start("mx", "api")
    with Farm(api.url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        worker.start()
        content = send(mx, inbox, "hangs", "it-holds-everything", size)
        send(mx, inbox, "another", "x")
        for _ in range(3):  # as whoever keeps services running would
            assert worker.ended(20 * LONGEST) == -signal.SIGPROF
            worker.start()
        until(lambda: subjects(inbox) == ["another", "hangs"], 20)
        assert "line 13 in parse" in worker.log()  # where it hung
        (hung,) = (message for message in inbox.messages() if message.subject == "hangs")
        assert hung.raw.endswith(content)
        assert worker.stop() == 0
