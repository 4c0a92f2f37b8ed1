"""A run: a target, traffic, one fault after the other, and at the end the oracle."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from mailfarm.sdk import Farm, FarmError, Inbox, WaitTimeout

from .child import get
from .dev import Dev
from .faults import Fault, NotHere, Tell
from .follower import HOWS, Following
from .follower import Plan as FollowerPlan
from .ledger import Attempt, Reading
from .oracle import Verdict, judge
from .processes import Processes
from .sender import Sender
from .target import Door, Options, Target
from .traffic import Counted, Plan, Steady

TARGETS: dict[str, type[Dev] | type[Processes]] = {"dev": Dev, "processes": Processes}
MAILBOXES = 6
DAY = 86_400
"""Seconds that our mailboxes live, for who looks into what is wrong; when nothing is they are deleted at once."""
FLOWING = 10
"""So many messages are acknowledged before the first fault."""
HEALING = 120.0
"""Seconds within which mail must flow again and be readable."""
READABLE = 8.0
CONTROL = 10.0
"""Seconds without anything new after which what a control's target has not given back is lost."""
_TOLD = 20
_NOT_WHOLE = "the ledger is not whole: who is a ghost, a copy too many or a stray is not judged"


@dataclass(slots=True)
class Injected:
    """One fault that was injected. Times are those of the ledger."""

    fault: Fault
    began: float
    healed: float = 0.0
    recovered: float | None = None
    """Seconds from the heal until a message that was begun afterwards was readable; None if that took too long."""
    told: list[str] = field(default_factory=list)
    """What it did, as it said itself; the first twenty lines."""
    not_here: str = ""
    """Why it could not be injected."""


@dataclass(slots=True)
class Proof:
    """What one target went through."""

    target: str
    faults: Sequence[Fault]
    began: float = 0.0
    ended: float = 0.0
    injected: list[Injected] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    traffic: Counted = field(default_factory=Counted)
    consumers: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: bool = False
    broke: str = ""
    """What kept it from being judged."""


class Run:
    """Faults of one target, with one set of options. ``folder`` takes the ledger and what consumers saw; ``begins`` is
    told before each fault how many are over."""

    def __init__(
        self,
        target: Target,
        folder: Path,
        *,
        seed: int = 1,
        patience: float = 60,
        tell: Tell = lambda _: None,
        begins: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.target = target
        self.tell = tell
        self._begins = begins
        self._seed = seed
        self._patience = patience
        self._folder = folder
        self._ledgers = folder / "ledger"
        self._dice: dict[str, random.Random] = {}

    def prove(self, schedule: Sequence[Fault], enough: Callable[[], bool] = lambda: False) -> Proof:
        """Set the target up, inject one fault after the other until ``enough()``, and judge. A KeyboardInterrupt ends
        the faults early; what was done until then is judged. Raises what keeps the target from being set up."""
        faults = list(dict.fromkeys(schedule))
        proof = Proof(self.target.name, faults)
        with self.target as target, self.farm() as farm:
            inboxes = [farm.create_mailbox(lifetime=DAY) for _ in range(MAILBOXES)]
            probed = farm.create_mailbox(lifetime=DAY)
            target.mail = Sender(self._ledgers, [probed.address], target.smtp)
            steady = Steady(self._plan(inboxes))
            following = Following(self._following_plan([inboxes[0], inboxes[1]]))
            try:
                following.start()
                if all(fault.traffic for fault in faults):
                    steady.start()
                    self._until_flowing(steady)
                proof.began = time.monotonic()
                self._inject_all(schedule, proof, probed, steady, enough)
                whole = self._stop(steady, proof)
                self._judge(proof, [*inboxes, probed], following, whole)
                if proof.verdict.clean:
                    with suppress(FarmError):
                        for inbox in [*inboxes, probed]:
                            inbox.delete()
            finally:
                steady.kill()
                following.kill()
                target.mail.close()
        return proof

    def _inject_all(
        self, schedule: Sequence[Fault], proof: Proof, probed: Inbox, steady: Steady, enough: Callable[[], bool]
    ) -> None:
        sending = steady.running
        try:
            for done, fault in enumerate(schedule):
                if enough():
                    break
                self._begins(done)
                self.tell(f"{fault.name}: {fault.says}")
                self._inject(fault, proof, probed)
                if sending and not steady.running:
                    raise ChildProcessError("the clients have ended by themselves")
        except KeyboardInterrupt:
            proof.interrupted = True
            self.tell("interrupted: what was sent until now is judged")
        except Exception as error:  # whatever a fault raises, what was sent until then is judged
            proof.broke = f"{type(error).__name__}: {error}"
        if proof.interrupted or proof.broke:
            self._mend()
        proof.ended = time.monotonic()

    def _stop(self, steady: Steady, proof: Proof) -> bool:
        """Let the clients finish. Whether all that anybody was told is in the ledger; what is in it is judged all the
        same."""
        self.target.mail.finish()
        try:
            proof.traffic = steady.stop()
        except (OSError, ValueError, SubprocessError) as error:
            proof.broke = f"{type(error).__name__}: {error}; {_NOT_WHOLE}"
            return False
        if unwritten := proof.traffic.unwritten or self.target.mail.broken:
            proof.broke = f"{unwritten}; {_NOT_WHOLE}"
        return not unwritten

    def _mend(self) -> None:
        """Start what a fault that did not come to its end has left stopped."""
        for part in self.target.parts:
            try:
                if part.running():
                    part.resume()
                else:
                    part.start()
            except (OSError, NotImplementedError) as error:
                self.tell(f"{part.name}: {error}")

    def farm(self) -> Farm:
        """The target's API."""
        return Farm(self.target.url, self.target.token or None, timeout=30, ca=self.target.cafile or None)

    def _plan(self, inboxes: Sequence[Inbox]) -> Plan:
        """Twice as many messages by the mx listeners as by submission."""
        doors = [Door(host, port) for host, port in self.target.smtp] * 2
        for number, (host, port) in enumerate(self.target.submission):
            inbox = inboxes[number % len(inboxes)]
            security, user, secret = self.target.submission_security, inbox.smtp.user or "", inbox.smtp.password or ""
            doors.append(Door(host, port, security, user, secret, inbox.address))
        return Plan(
            doors,
            [inbox.address for inbox in inboxes],
            str(self._ledgers),
            seed=self._seed,
            rate=self.target.rate,
            sources=list(self.target.sources),
        )

    def _following_plan(self, inboxes: Sequence[Inbox]) -> FollowerPlan:
        target = self.target
        watched = [(how, inbox.id) for inbox in inboxes for how in HOWS]
        addresses = tuple(target.addresses)
        folder = str(self._folder / "seen")
        return FollowerPlan(
            target.url, target.live, watched, folder, target.token, target.cafile, addresses, self._patience
        )

    def _until_flowing(self, steady: Steady) -> None:
        reading, acked = Reading(self._ledgers), 0
        deadline = time.monotonic() + HEALING
        while acked < FLOWING:
            if not steady.running or time.monotonic() > deadline:
                raise TimeoutError(f"the traffic does not flow: {acked} messages in {HEALING:g} s")
            time.sleep(0.05)
            acked += sum(attempt.outcome == "acked" for attempt in reading.more())

    def _inject(self, fault: Fault, proof: Proof, probed: Inbox) -> None:
        now = Injected(fault, time.monotonic())
        dice = self._dice.setdefault(fault.name, random.Random(f"{self._seed} {fault.name}"))

        def tell(line: str) -> None:
            if len(now.told) < _TOLD:
                now.told.append(line)
            self.tell(f"{fault.name}: {line}")

        proof.injected.append(now)
        try:
            fault.inject(self.target, dice, tell)
        except NotHere as error:
            now.not_here = str(error)
            return
        finally:
            now.healed = time.monotonic()
        try:
            self._probe(probed, now.healed)
            now.recovered = time.monotonic() - now.healed
            self.target.healthy()
        except TimeoutError as error:
            proof.verdict.wrong.append(f"{fault.name}: {error}")
            tell(str(error))

    def _probe(self, inbox: Inbox, since: float) -> None:
        """Send until a message is acknowledged and readable. Raises TimeoutError."""
        acked = 0
        while time.monotonic() - since < HEALING:
            letter = self.target.mail.letter(inbox.address)
            attempts = self.target.mail.send(letter, timeout=5)
            if all(attempt.outcome == "acked" for attempt in attempts):
                acked += 1
                if self._readable(inbox, letter.id):
                    return
            time.sleep(0.1)
        what = f"none of {acked} messages that were acknowledged was readable" if acked else "nothing was acknowledged"
        raise TimeoutError(f"{what} for {HEALING:g} s after it was healed")

    def _readable(self, inbox: Inbox, subject: str) -> bool:
        """Whether it is within READABLE seconds; if not it may be lost, which the oracle will see, and the next one
        may not."""
        deadline = time.monotonic() + READABLE
        while time.monotonic() < deadline:
            try:
                inbox.wait_for(subject=subject, timeout=2)
                return True
            except WaitTimeout:
                continue
            except FarmError:
                time.sleep(0.1)
        return False

    def _judge(self, proof: Proof, inboxes: Sequence[Inbox], following: Following, whole: bool) -> None:
        """``whole``: the ledger is."""
        self.tell("judging")
        try:
            self.target.healthy()
        except (OSError, SubprocessError) as error:
            proof.broke = proof.broke or str(error)
        proof.attempts = list(Reading(self._ledgers).more())
        wrong = proof.verdict.wrong
        # what a control loses is not waited for in vain
        still = CONTROL if any(fault.control for fault in proof.faults) else self._patience
        addresses = [inbox.address for inbox in inboxes]
        patience = self._patience
        verdict = judge(
            proof.attempts, self.farm, addresses, seconds=patience, still=still, drained=self._drained, written=whole
        )
        verdict.wrong = wrong + verdict.wrong
        proof.verdict = verdict
        try:
            self._hear(proof, inboxes, following)
        except (OSError, ValueError, SubprocessError) as error:
            proof.broke = proof.broke or f"the consumers of events: {type(error).__name__}: {error}"
        for fault in proof.faults:
            try:
                verdict.wrong += [f"{fault.name}: {each}" for each in fault.judge_more(self.target, verdict)]
            except (OSError, ValueError, FarmError, SubprocessError) as error:
                proof.broke = proof.broke or f"{fault.name}: {type(error).__name__}: {error}"

    def _drained(self) -> bool:
        """Whether nothing waits in the queue and nobody works on anything; also where we may not ask that."""
        headers = {"Authorization": f"Bearer {self.target.token}"} if self.target.token else {}
        code, text = get(f"{self.target.url}/v1/queue", headers, cafile=self.target.cafile)
        if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return True
        if code != HTTPStatus.OK:
            return False
        said = json.loads(text)
        return bool(said["waiting"] == said["leased"] == 0)

    def _hear(self, proof: Proof, inboxes: Sequence[Inbox], following: Following) -> None:
        """Judge what consumers were told. Raises OSError, ValueError, SubprocessError where they have ended."""
        verdict = proof.verdict
        last = {inbox.id: verdict.last(inbox.address) for inbox in inboxes}
        counted = following.finish(last)
        addresses = {inbox.id: inbox.address for inbox in inboxes}
        for how, mailbox in following.plan.watched:
            consumer = f"{how} {mailbox}"
            saw = following.saw(how, mailbox)
            proof.consumers[consumer] = counted[consumer] | {"told": len(saw)}
            if broken := counted[consumer]["broken"]:
                proof.broke = proof.broke or f"{broken}; what {consumer} missed is not judged"
                continue
            verdict.heard(consumer, addresses[mailbox], saw)


def set_up(name: str, folder: Path, options: Options) -> Target:
    """A target of this name on this machine."""
    return TARGETS[name](folder, options)
