"""Trouble at the start and on the way: each kind has a defined answer, in one line that says what to change."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import FREE_PORTS, Running, until

from mailfarm.sdk import Farm, Inbox


def start(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A ``mailfarm dev`` that is expected to refuse to start."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")}
    done = subprocess.run(
        [sys.executable, "-m", "mailfarm", "dev", *words],
        env=environ | FREE_PORTS | settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_every_broken_setting_is_told_at_once() -> None:
    done = start(MAILFARM_MX_LISTEN="nowhere", MAILFARM_MAX_SIZE="huge", MAILFARM_COLOUR="blue")
    assert done.returncode == 2
    assert "3 mistakes" in done.stderr
    for name in ("MAILFARM_MX_LISTEN", "MAILFARM_MAX_SIZE", "MAILFARM_COLOUR"):
        assert name in done.stderr


def test_beyond_loopback_without_tokens_it_does_not_start() -> None:
    done = start("--ephemeral", MAILFARM_API_LISTEN="0.0.0.0:0")
    assert done.returncode == 2
    assert "MAILFARM_API_AUTH=token" in done.stderr


@pytest.mark.parametrize("name", ["MAILFARM_SUBMISSION_CAPTURE", "MAILFARM_MX_LISTEN", "MAILFARM_API_LISTEN"])
def test_a_port_in_use_is_named(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start("--ephemeral", **{name: where})
    assert done.returncode == 1
    assert where in done.stderr
    assert name in done.stderr


def test_one_folder_one_process(folder: Path) -> None:
    with Running(folder):
        done = start("--data", str(folder))
    assert done.returncode == 1
    assert str(folder) in done.stderr


def test_a_database_of_a_newer_version_is_left_alone(folder: Path) -> None:
    Running(folder).stop()
    (database,) = folder.glob("*.sqlite")
    with sqlite3.connect(database) as newer:
        newer.execute("pragma user_version = 9999")
    newer.close()
    done = start("--data", str(folder))
    assert done.returncode == 1
    assert "newer" in done.stderr


def test_a_file_that_is_no_database_is_left_alone(folder: Path) -> None:
    Running(folder).stop()
    (database,) = folder.glob("*.sqlite")
    database.write_bytes(b"this is somebody's diary\n" * 1000)
    done = start("--data", str(folder))
    assert done.returncode == 1
    assert database.read_bytes().startswith(b"this is somebody's diary")


def test_no_room_is_said_before_the_content(folder: Path) -> None:
    with (
        Running(folder, MAILFARM_RESERVE="999999G") as running,
        smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp,
        pytest.raises(smtplib.SMTPResponseException) as refused,
    ):
        smtp.sendmail("a@shop.example", ["b@shop.example"], b"Subject: x\r\n\r\nx\r\n")
    assert refused.value.smtp_code == 452
    assert refused.value.smtp_error.startswith(b"4.3.1")


def test_a_locked_database_is_a_temporary_failure_and_passes(folder: Path) -> None:
    with Running(folder) as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        (database,) = folder.glob("*.sqlite")
        holder = sqlite3.connect(database, isolation_level=None)
        holder.execute("begin immediate")
        with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"), timeout=30) as smtp:
            with pytest.raises(smtplib.SMTPDataError) as refused:
                smtp.sendmail("a@shop.example", [inbox.address], b"Subject: locked\r\n\r\nx\r\n")
            assert refused.value.smtp_code == 451
            holder.execute("rollback")
            holder.close()
            smtp.sendmail("a@shop.example", [inbox.address], b"Subject: free again\r\n\r\nx\r\n")
        inbox.wait_for(subject="free again", timeout=10)


def test_a_message_too_large_is_refused_and_the_session_goes_on() -> None:
    with Running(MAILFARM_MAX_SIZE="100K") as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
            large = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 20_000
            with pytest.raises(smtplib.SMTPSenderRefused) as declared:  # smtplib declares the size
                smtp.sendmail("a@shop.example", [inbox.address], large)
            assert (declared.value.smtp_code, declared.value.smtp_error[:5]) == (552, b"5.3.4")
            smtp.esmtp_features.clear()  # now as a client that does not declare it
            smtp.mail("a@shop.example")
            smtp.rcpt(inbox.address)
            assert smtp.data(large)[0] == 552
            smtp.sendmail("a@shop.example", [inbox.address], b"Subject: small\r\n\r\nx\r\n")
        assert inbox.wait_for(timeout=5).subject == "small"
        assert len(inbox.messages()) == 1


def test_a_bare_line_feed_is_refused_and_says_why() -> None:
    with Running() as running, smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        smtp.ehlo()
        smtp.mail("a@shop.example")
        smtp.rcpt("b@shop.example")
        smtp.docmd("DATA")
        smtp.send(b"Subject: x\r\n\r\none\ntwo\r\n.\r\n")
        code, text = smtp.getreply()
        assert code == 550
        assert text.startswith(b"5.6.0")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtp.noop()


def test_sigterm_lets_a_running_transaction_finish(folder: Path) -> None:
    with Running(folder) as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        busy = smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"))
        idle = smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"))
        idle.ehlo()
        busy.ehlo()
        busy.mail("a@shop.example")
        busy.rcpt(inbox.address)
        busy.docmd("DATA")
        running.process.send_signal(signal.SIGTERM)
        assert idle.getreply()[0] == 421
        busy.send(b"Subject: in time\r\n\r\nx\r\n.\r\n")
        assert busy.getreply()[0] == 250
        busy.close()
        idle.close()
        assert running.stop() == 0
    with Running(folder) as running, Farm(running.url) as farm:
        assert farm.mailbox(inbox.address).wait_for(timeout=5).subject == "in time"


def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Running(tmp_path / "data", log) as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        busy = smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"))
        busy.ehlo()
        busy.mail("a@shop.example")
        busy.rcpt(inbox.address)
        running.process.send_signal(signal.SIGINT)
        until(lambda: not listens(running.port("smtp", "capture")))
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) == 0
        busy.close()
    assert "Traceback" not in log.read_text()


def listens(port: int) -> bool:
    """Whether anybody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Ledger:
    """What clients know of the mails they sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.contents: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()

    def client(self, port: int, address: str, name: str, chance: random.Random) -> None:
        """Send until the server goes."""
        with contextlib.suppress(OSError, smtplib.SMTPException):
            for first in range(0, 10_000, 20):
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
                    for number in range(first, first + 20):
                        self.send(smtp, address, f"{name}-{number}", chance.choice((100, 4_000, 4_000, 400_000)))

    def send(self, smtp: smtplib.SMTP, address: str, token: str, size: int) -> None:
        noise = base64.encodebytes(random.Random(token).randbytes(size * 3 // 4))  # what is alike takes no room
        content = f"Subject: {token}\r\n\r\n".encode() + noise.replace(b"\n", b"\r\n")
        with self.lock:
            self.contents[token] = content
        try:
            smtp.sendmail("a@shop.example", [address], content)
        except BaseException:
            smtp.close()
            raise
        with self.lock:
            self.acknowledged.add(token)

    def compare(self, inbox: Inbox) -> None:
        """Every acknowledged mail is there, byte for byte; none is there twice; change numbers have no gaps."""
        with contextlib.suppress(TimeoutError):  # the comparison below says more
            until(lambda: len(inbox.messages()) >= len(self.acknowledged), 60, 0.2)
        messages = inbox.messages()
        found: Counter[str] = Counter()
        for message in messages:
            raw = message.raw
            (token,) = re.findall(rb"^Subject: (\S+)", raw, re.MULTILINE)
            assert raw.endswith(b"\r\n" + self.contents[token.decode()])
            found[token.decode()] += 1
        assert self.acknowledged - set(found) == set()
        assert [token for token, times in found.items() if times > 1] == []
        assert sorted(message.seq for message in messages) == list(range(1, len(messages) + 1))


def test_kill_9_in_the_middle_of_anything(folder: Path) -> None:
    """Nothing acknowledged is missing, nothing is filed twice, change numbers have no gaps."""
    chance = random.Random(4711)
    ledger = Ledger()
    address = "ledger@mailfarm.test"
    for round_ in range(8):
        running = Running(folder)
        with Farm(running.url) as farm:
            if round_ == 0:
                farm.create_mailbox(address=address)
        port = running.port("smtp", "capture")
        clients = [
            threading.Thread(
                target=ledger.client, args=(port, address, f"r{round_}c{n}", random.Random(round_ * 6 + n))
            )
            for n in range(6)
        ]
        wanted = len(ledger.acknowledged) + chance.randrange(5, 120)
        for thread in clients:
            thread.start()
        until(lambda wanted=wanted: len(ledger.acknowledged) >= wanted, 60)
        running.kill()
        for thread in clients:
            thread.join(60)
            assert not thread.is_alive()
    with Running(folder) as running, Farm(running.url) as farm:
        ledger.compare(farm.mailbox(address))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, made of memory; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "mailfarm-test", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk could not be mounted: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_loses_nothing_and_is_said_in_time(small_disk: Path) -> None:
    """Without a reserve the disk fills while content comes in; with room again it goes on, and all of it is there."""
    ledger = Ledger()
    address = "ledger@mailfarm.test"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(6_000_000))
    with Running(small_disk / "data", MAILFARM_RESERVE="0") as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox(address=address)
        port = running.port("smtp", "capture")
        codes: Counter[int] = Counter()

        def send(number: int) -> int:
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp:
                try:
                    ledger.send(smtp, address, f"n-{number}", 400_000)
                except smtplib.SMTPResponseException as refused:
                    codes[refused.smtp_code] += 1
                    return refused.smtp_code
            return 250

        number = 0
        while send(number) == 250:
            number += 1
            assert number < 200, "24 MB should have been full by now"
        assert set(codes) <= {451, 452}
        ballast.unlink()
        until(lambda: send(10_000 + codes.total()) == 250, 60, 0.2)
        ledger.compare(inbox)
