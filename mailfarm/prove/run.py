"""A run: a target, traffic, one fault after the other, and at the end the oracle."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailfarm.sdk import Farm, Inbox, WaitTimeout

from .dev import Dev
from .faults import Fault, Tell
from .ledger import Attempt, Ledger, Reading
from .oracle import Verdict, judge
from .processes import Processes
from .smtp import Letter, compose, send_once
from .target import Door, Options, Target
from .traffic import Plan, Steady

TARGETS: dict[str, type[Dev] | type[Processes]] = {"dev": Dev, "processes": Processes}
MAILBOXES = 6
FLOWING = 20
"""So many messages are acknowledged before the first fault."""
HEALING = 120.0
"""Seconds within which mail must flow again and be readable."""


@dataclass(slots=True)
class Injected:
    """One fault that was injected: when it began, when it was healed, and the seconds until mail was readable."""

    fault: Fault
    began: float
    healed: float = 0.0
    recovered: float = 0.0
    failed: str = ""


@dataclass(slots=True)
class Proof:
    """What one target went through."""

    target: str
    seed: int
    injected: list[Injected] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)


class Run:
    """Faults of one target, with one set of options."""

    def __init__(
        self,
        target: Target,
        folder: Path,
        *,
        seed: int = 1,
        tell: Tell = lambda _: None,
    ) -> None:
        self.target = target
        self.tell = tell
        self._seed = seed
        self._ledgers = folder / "ledger"
        self._own: Ledger
        self._numbers = 0
        self.proof = Proof(target.name, seed)

    def prove(self, faults: Sequence[Fault], seconds: float = 60) -> Proof:
        """Inject each fault as often as it wants to be, and judge."""
        with self.target as target, self.farm() as farm:
            self._own = Ledger(self._ledgers, "probe")
            self._inboxes = [farm.create_mailbox() for _ in range(MAILBOXES)]
            self._probed = farm.create_mailbox()
            plan = Plan(self._doors(), [inbox.address for inbox in self._inboxes], str(self._ledgers), seed=self._seed)
            plan.rate, plan.sources = self.target.rate, list(self.target.sources)
            with Steady(plan) as steady:
                self._until_flowing(steady)
                for fault in faults:
                    dice = random.Random(f"{self._seed} {fault.name}")
                    for _ in range(fault.times):
                        self._inject(fault, dice)
            self._own.close()
            target.healthy()
            mailboxes = [inbox.address for inbox in [*self._inboxes, self._probed]]
            self.proof.verdict = judge(Reading(self._ledgers).more(), self.farm, mailboxes, seconds=seconds)
            for fault in faults:
                self.proof.verdict.wrong += fault.judge_more(target, self.proof.verdict)
        return self.proof

    def farm(self) -> Farm:
        """The target's API."""
        return Farm(self.target.url, self.target.token or None, timeout=30, ca=self.target.cafile or None)

    def _doors(self) -> list[Door]:
        """Twice as many messages by the mx listeners as by submission."""
        anybody = [Door(host, port) for host, port in self.target.smtp]
        doors = anybody * 2
        for number, (host, port) in enumerate(self.target.submission):
            inbox = self._inboxes[number % len(self._inboxes)]
            user, secret = inbox.smtp.user or "", inbox.smtp.password or ""
            doors.append(Door(host, port, "plain", user, secret, inbox.address))
        return doors

    def _until_flowing(self, steady: Steady) -> None:
        reading, acked = Reading(self._ledgers), 0
        deadline = time.monotonic() + HEALING
        while acked < FLOWING:
            if not steady.running or time.monotonic() > deadline:
                raise TimeoutError(f"the traffic does not flow: {acked} messages in {HEALING:g} s")
            time.sleep(0.05)
            acked += sum(attempt.outcome == "acked" for attempt in reading.more())

    def _inject(self, fault: Fault, dice: random.Random) -> None:
        now = Injected(fault, time.monotonic())
        self.proof.injected.append(now)
        fault.inject(self.target, dice, self.tell)
        now.healed = time.monotonic()
        try:
            self._probe(now.healed)
            now.recovered = time.monotonic() - now.healed
            self.target.healthy()
        except TimeoutError as error:
            now.failed = str(error)
        self.tell(f"{fault.name}: recovered in {now.recovered:.1f} s {now.failed}")

    def _probe(self, since: float) -> None:
        """Send until a message is acknowledged and readable. Raises TimeoutError."""
        inbox = self._probed
        while time.monotonic() - since < HEALING:
            letter, attempts = self.mail(inbox)
            if all(attempt.outcome == "acked" for attempt in attempts):
                self._until_readable(inbox, letter.id, since)
                return
            time.sleep(0.1)
        raise TimeoutError(f"no message was acknowledged for {HEALING:g} s")

    def mail(self, inbox: Inbox) -> tuple[Letter, list[Attempt]]:
        """One message of our own, once, written down as all others are."""
        self._numbers += 1
        name, dice = f"probe-{self._numbers}", random.Random(self._numbers)
        letter = Letter(name, (inbox.address,), compose(name, [inbox.address], 500, dice))
        host, port = self.target.smtp[self._numbers % len(self.target.smtp)]
        attempts = asyncio.run(send_once(letter, Door(host, port), 5))
        self._own.write(attempts)
        return letter, attempts

    def _until_readable(self, inbox: Inbox, subject: str, since: float) -> None:
        while time.monotonic() - since < HEALING:
            try:
                inbox.wait_for(subject=subject, timeout=2)
                return
            except WaitTimeout:
                continue
            except Exception as error:
                self.tell(f"waiting for the probe: {error}")
                time.sleep(0.1)
        raise TimeoutError(f"a message that was acknowledged was not readable within {HEALING:g} s")


def set_up(name: str, folder: Path, options: Options) -> Target:
    """A target of this name."""
    return TARGETS[name](folder, options)
