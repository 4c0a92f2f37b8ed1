"""The clients outside: what they count, and what they and the consumers of events cannot write down is said."""

from __future__ import annotations

import json
import random
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import until

from mailfarm.prove import tmpfs
from mailfarm.prove.dev import Dev
from mailfarm.prove.faults import Fault, Tell
from mailfarm.prove.follower import HOWS, Following
from mailfarm.prove.follower import Plan as FollowerPlan
from mailfarm.prove.hearing import Told
from mailfarm.prove.ledger import Reading
from mailfarm.prove.report import Report
from mailfarm.prove.run import Run
from mailfarm.prove.sender import Sender
from mailfarm.prove.target import Door, Target
from mailfarm.prove.tmpfs import Tmpfs
from mailfarm.prove.traffic import Plan, Steady
from mailfarm.sdk import Farm, Inbox


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with Dev(tmp_path_factory.mktemp("dev")) as target:
        yield target


@pytest.fixture
def inbox(dev: Dev) -> Iterator[Inbox]:
    with Farm(dev.url, dev.token) as farm:
        made = farm.create_mailbox()
        yield made
        made.delete()


def lines(folder: Path) -> list[str]:
    return [attempt.outcome for attempt in Reading(folder).more()]


def at_most(octets: int) -> list[str]:
    """What stands in front of a program whose files cannot grow beyond that (prlimit(1))."""
    return ["prlimit", f"--fsize={octets}"]


def test_a_ledger_that_cannot_be_written_ends_the_traffic_and_is_said(dev: Dev, inbox: Inbox, tmp_path: Path) -> None:
    plan = Plan([Door(*dev.smtp[0])], [inbox.address], str(tmp_path), rate=100, sizes=[500])
    steady = Steady(plan, at_most(20_000))
    steady.start()
    until(lambda: not steady.running, 30)
    assert steady.stop().unwritten == "the ledger m.ledger could not be written: File too large"
    assert (tmp_path / "m.ledger").read_bytes().endswith(b"}\n")
    assert len(lines(tmp_path)) > 50


def test_a_full_ledger_ends_the_traffic_and_is_said(dev: Dev, inbox: Inbox, tmp_path: Path) -> None:
    steady = Steady(Plan([Door(*dev.smtp[0])], [inbox.address], str(tmp_path), rate=100, lines=30))
    steady.start()
    until(lambda: not steady.running, 30)
    assert steady.stop().unwritten == "the ledger m.ledger is full: it takes 30 lines"
    assert 0 < len(lines(tmp_path)) <= 30


def test_clients_that_get_nowhere_are_counted_by_where_they_sent(dev: Dev, inbox: Inbox, tmp_path: Path) -> None:
    wrong = Door(*dev.submission[0], "plain", inbox.smtp.user or "", "not the password", inbox.address)
    steady = Steady(Plan([Door(*dev.smtp[0]), wrong], [inbox.address], str(tmp_path), rate=50))
    with steady:
        until(lambda: len(lines(tmp_path)) > 20, 30)
    mx, submission = steady.result.clients["mx"], steady.result.clients["submission"]
    assert mx["acked"] > 0
    assert mx["no_session"] == 0
    assert submission["acked"] == 0
    assert submission["begun"] == submission["no_session"] > 5


class Mute(socketserver.StreamRequestHandler):
    """Takes a message, and says nothing to it."""

    took = threading.Event()

    def handle(self) -> None:
        self.wfile.write(b"220 mute\r\n")
        for line in self.rfile:
            if line.startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() not in (b".\r\n", b""):
                    pass
                self.took.set()
            else:
                self.wfile.write(b"250 fine\r\n")


def test_what_is_under_way_at_the_end_is_unknown(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mute) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        to = ["a@example.org"]
        steady = Steady(Plan([Door(*server.server_address)], to, str(tmp_path), rate=50, drain=0.5, timeout=60))
        with steady:
            assert Mute.took.wait(20)
        server.shutdown()
    counted = steady.result.clients["mx"]
    assert counted["unfinished"] == lines(tmp_path).count("unknown") > 0


class FillsTheDisk(Fault):
    """The disk of the ledger gets full while mail flows."""

    name = "fills-the-disk"
    family = "nothing"
    says = "nothing"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        with open(self._folder / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass


def test_a_disk_that_is_full_under_the_ledger_is_no_false_alarm(tmp_path: Path) -> None:
    if why := tmpfs.why_not():
        pytest.skip(why)
    folder = tmp_path / "ledger"
    folder.mkdir()
    disk = Tmpfs(folder, "size=200k")
    disk.mount()
    try:
        run = Run(Dev(tmp_path), tmp_path, patience=5)
        proof = run.prove([FillsTheDisk(folder)] * 3)
    finally:
        disk.unmount()
    report = Report("dev", 1)
    report.add(proof)
    assert [finding.kind for finding in report.findings] == ["broke"], report.text()
    assert "could not be written: No space left on device; the ledger is not whole" in report.text()
    assert report.total.acknowledged >= 10


def test_consumers_write_down_ids_and_say_when_they_cannot(dev: Dev, inbox: Inbox, tmp_path: Path) -> None:
    watched = [(how, inbox.id) for how in HOWS]
    following = Following(FollowerPlan(dev.url, dev.live, watched, str(tmp_path / "a"), dev.token))
    limited = Following(FollowerPlan(dev.url, dev.live, watched[:1], str(tmp_path / "b"), dev.token), at_most(100))
    following.start()
    limited.start()
    sender = Sender(tmp_path, [inbox.address], dev.smtp)
    for _ in range(5):
        sender.send(sender.letter())
    sender.close()
    until(lambda: len(inbox.messages()) == 5, 20)
    filed = {message.id: message.seq for message in inbox.messages()}
    told = following.finish({inbox.id: 5})
    assert [each["broken"] for each in told.values()] == ["", "", ""]
    by_how = {how: following.saw(how, inbox.id) for how in HOWS}
    assert all({each.message: each.number for each in saw} == filed for saw in by_how.values())
    events = [{each.message: each.event for each in by_how[how]} for how in ("sse", "websocket")]
    assert events[0] == events[1]
    assert len(set(events[0].values())) == 5
    assert "" not in events[0].values()
    assert {each.event for each in by_how["wait"]} == {""}
    (counted,) = limited.finish({inbox.id: 5}).values()
    assert counted["broken"] == "what sse was told could not be written down: File too large"
    assert all(isinstance(each, Told) for each in limited.saw("sse", inbox.id))
    assert json.dumps(counted)
