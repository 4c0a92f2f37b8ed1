"""What a real mx says while more comes in than can be filed, or kept: 421, 451 and 452, each before the content."""

from __future__ import annotations

import smtplib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from running import Cluster, Service, until
from servers import Postgres, queue_and_cache

from mailfarm.sdk import Farm

PACE = 10
"""Messages a second that the worker takes at first."""
SESSIONS = 8
OTHER = "127.7.7.7"
"""Of another network, which has brought nothing."""
BEHIND = "451 4.3.2 More mail comes in than can be filed; try again in a minute"
WORKER = Path(__file__).with_name("slow_worker.py")


@contextmanager
def behind(postgres: Postgres, folder: Path, **settings: str) -> Iterator[tuple[Service, str, Callable[[int], None]]]:
    """mx, an address, and what gives the queue a worker of another pace, 0: none."""
    workers: list[subprocess.Popen[bytes]] = []
    with (
        queue_and_cache() as (queue, cache),
        Cluster(folder, postgres.new_database(), [queue.url], cache.url, **settings) as services,
    ):

        def pace(messages: int) -> None:
            for worker in workers:
                worker.kill()
                worker.wait()
            workers[:] = [subprocess.Popen([sys.executable, WORKER, queue.url, str(messages)])] if messages else []

        try:
            services.schema()
            mx, api = services.start("mx", "api")
            with Farm(api.url, services.token) as farm:
                yield mx, farm.create_mailbox().address, pace
        finally:
            pace(0)


class Flood:
    """Sessions that send as fast as they are answered, until the end of the ``with``. What each reply was, with what
    it was said to."""

    def __init__(self, port: int, to: str) -> None:
        self.said: Counter[tuple[str, str]] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._sessions, args=(port, to), daemon=True) for _ in range(SESSIONS)]

    def _sessions(self, port: int, to: str) -> None:
        while not self._over.is_set():
            with suppress(OSError, smtplib.SMTPServerDisconnected):
                self._session(port, to)

    def _session(self, port: int, to: str) -> None:
        with smtplib.SMTP(timeout=30) as smtp:
            code, text = smtp.connect("127.0.0.1", port)
            if code != 220:
                self._over.wait(0.05)
                return
            smtp.ehlo()
            while not self._over.is_set():
                verb, (code, text) = "MAIL", smtp.mail("a@shop.example")
                if code == 250:
                    smtp.rcpt(to)
                    verb, (code, text) = "DATA", smtp.docmd("DATA")
                if code == 354:
                    smtp.send(b"Subject: x\r\n\r\ntext\r\n.\r\n")
                    verb, (code, text) = "content", smtp.getreply()
                self._heard(verb, code, text)
                if code == 421:
                    return
                smtp.rset()

    def _heard(self, what: str, code: int, text: bytes) -> None:
        self.said[what, f"{code} {text.decode()}"] += 1

    def heard(self, what: str, reply: str) -> int:
        said = list(self.said.items())  # its threads go on
        return sum(many for (said_to, text), many in said if said_to == what and text.startswith(reply))

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def greeting(port: int, source: str) -> str:
    with smtplib.SMTP(timeout=10, source_address=(source, 0)) as smtp:
        code, text = smtp.connect("127.0.0.1", port)
        return f"{code} {text.decode()}"


def accepted(port: int, to: str) -> bool:
    with suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=10) as smtp:
        smtp.sendmail("a@shop.example", to, b"Subject: x\r\n\r\ntext\r\n")
        return True
    return False


def test_twice_too_far_behind_nobody_is_greeted_and_who_is_in_hears_451(
    postgres: Postgres, component: Callable[[str], Path], tmp_path: Path
) -> None:
    component("redis-server")
    with behind(postgres, tmp_path, MAILFARM_BACKLOG_AGE="2") as (mx, to, pace):
        pace(PACE)
        with Flood(mx.port("mx"), to) as flood:
            until(lambda: flood.heard("MAIL", BEHIND) + flood.heard("DATA", BEHIND), 60)
            until(
                lambda: greeting(mx.port("mx"), OTHER).startswith("421 4.3.2 More mail comes in than can be filed"), 60
            )
            assert not flood.heard("content", "4"), flood.said
            pace(10_000)
        until(lambda: accepted(mx.port("mx"), to), 30)
        until(lambda: accepted(mx.port("mx"), to) and share(mx) == -1, 60)


def test_what_the_queue_has_no_place_for_is_452_before_its_content_and_taken_when_it_has(
    postgres: Postgres, component: Callable[[str], Path], tmp_path: Path
) -> None:
    component("redis-server")
    with behind(postgres, tmp_path, MAILFARM_BACKLOG="50", MAILFARM_BACKLOG_AGE="0") as (mx, to, pace):
        with Flood(mx.port("mx"), to) as flood:
            until(lambda: flood.heard("MAIL", "452 4.3.1 ") + flood.heard("DATA", "452 4.3.1 ") > 10, 60)
        assert 40 <= flood.heard("content", "250 ") <= 50 + SESSIONS, flood.said
        assert not accepted(mx.port("mx"), to)
        pace(10_000)
        until(lambda: accepted(mx.port("mx"), to), 30)


def share(mx: Service) -> float:
    """Messages a second that each may bring in; -1: any number."""
    line = next(line for line in mx.status("metrics")[1].splitlines() if line.startswith("mailfarm_mx_share "))
    return float(line.split()[1])
