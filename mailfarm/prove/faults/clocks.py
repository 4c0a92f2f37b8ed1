"""Clocks an hour off, both ways: Debian's faketime in front of workers, the sweeper, listeners and the API.

Leases are by the queue's clock, and retention, mailbox ends and pauses by the database's. So mail is neither lost nor
expired early, nothing is filed twice, and a wait lasts as long as it says. What has the listener's date is the time in
``Received`` and ``received_at``, and nothing is decided by it.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import smtplib
import time
from collections.abc import Iterator

from mailfarm.prove.child import until
from mailfarm.prove.target import Target
from mailfarm.sdk import Farm, Inbox, NoSuchMailbox, WaitTimeout

from . import Fault, NotHere, Tell

HOUR = 3600
KINDS = ("inbound", "sweep", "mx", "submission", "api", "live")
RETENTION = 600
"""Seconds for which a mailbox keeps its mail, less than the clocks are off."""
SHORT = 3
"""And one whose mail must go while they are."""
LIVES = 8
"""Seconds that a mailbox lives."""
GONE = 60.0
"""Seconds within which what has ended is gone."""


class Clock(Fault):
    """All processes of the kinds it names are started an hour ``ahead`` (or behind), and later at the right time."""

    family = "clocks"
    lasts = 16.0

    def __init__(self, kinds: tuple[str, ...], ahead: int) -> None:
        self._kinds, self._ahead = kinds, ahead
        whole, way = len(kinds) == len(KINDS), "ahead" if ahead > 0 else "behind"
        self.name = f"clock-{'all' if whole else '-'.join(kinds)}-{way}"
        self.says = f"the clocks of {'every service' if whole else ' and '.join(kinds)} are an hour {way}"
        self.short = whole and ahead > 0
        self._wrong: list[str] = []

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or (
            "" if shutil.which("faketime") else "faketime is not on this machine (Debian: the package faketime)"
        )

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        with Farm(target.url, target.token or None) as farm:
            keeps = farm.create_mailbox(retention=RETENTION)
            tell(f"{self._ahead:+d} s")
            self._start(target, f"{self._ahead:+d}s")
            try:
                self._look(target, farm, keeps)
            finally:
                self._start(target, "")

    def _start(self, target: Target, off: str) -> None:
        parts = [part for kind in self._kinds for part in target.of(kind)]
        for part in parts:
            part.stop_clean()
        for part in parts:
            part.start(before=("faketime", "-f", off) if off else ())
        target.healthy()
        if off and all(part.pid() == 0 for part in parts):
            raise NotHere("faketime does not start anything")

    def _look(self, target: Target, farm: Farm, keeps: Inbox) -> None:
        """Mail and mailboxes go when the database says so, not earlier; a wait lasts its time."""
        began = time.monotonic()
        ends = farm.create_mailbox(lifetime=LIVES)
        goes = farm.create_mailbox(retention=SHORT)
        for inbox in (keeps, goes, ends):
            with smtplib.SMTP(*target.smtp[0], timeout=30) as smtp:
                smtp.sendmail("prove@example.net", [inbox.address], b"Subject: by which clock?\r\n\r\nx\r\n")
            inbox.wait_for(timeout=30)
        asked = time.monotonic()
        with contextlib.suppress(WaitTimeout):
            keeps.wait_for(subject="nothing like this", timeout=2)
        if not 1.9 <= time.monotonic() - asked < 10:
            self._wrong.append(f"a wait of 2 s took {time.monotonic() - asked:.1f} s")
        if not (self._ahead > 0 and "mx" in self._kinds):  # a listener that is ahead has its mail kept for longer
            until(lambda: not goes.messages(), GONE, 0.2)
        until(lambda: _gone(ends), GONE, 0.2)
        if time.monotonic() - began < LIVES:
            self._wrong.append(f"a mailbox that lives {LIVES} s was gone after {time.monotonic() - began:.1f} s")
        if len(keeps.messages()) != 1:
            self._wrong.append(f"mail kept for {RETENTION} s was gone after {time.monotonic() - began:.1f} s")

    def judge_more(self, target: Target, verdict: object) -> list[str]:
        """As in Fault."""
        return self._wrong


def _gone(inbox: Inbox) -> bool:
    try:
        inbox.refresh()
    except NoSuchMailbox:
        return True
    return False


def faults() -> Iterator[Fault]:
    """All services together, and those apart from whose clocks something might be decided; both ways."""
    for ahead in (HOUR, -HOUR):
        yield Clock(KINDS, ahead)
        yield Clock(("inbound",), ahead)
        yield Clock(("sweep",), ahead)
        yield Clock(("mx", "api"), ahead)
