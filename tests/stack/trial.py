"""Something happens to the stack while mail flows: one trial is one row of the table.

::

    with trial(stack, table, tmp_path, "update of mx", watch=("websocket", "wait")) as run:
        run.took = stack.update("mx", ...).seconds
    assert run.result["lost"] == 0

Mail flows from a hundred addresses of a client to all machines in turn, a new connection each, and over a few sessions
that stay. Afterwards every message that was answered 250 is read and compared, and who watched the mailbox is asked
whether all of it was seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from ledger import Steady, judged
from swarm_deployment import MX, Deployment
from table import Table
from traffic import Plan

from mailfarm.prove.follower import Following
from mailfarm.prove.follower import Plan as FollowerPlan
from mailfarm.prove.oracle import Verdict
from mailfarm.sdk import Inbox

_NUMBERS = count(1)
FLOWING = 30
"""So many messages before and after, so that a trial does not begin or end in the middle of something."""


@dataclass
class Trial:
    """What runs, and what came of it. ``took`` and ``remarks`` are the test's to set; ``saw`` is what each follower
    counted, and the change numbers it was told."""

    inbox: Inbox
    steady: Steady
    took: float = 0.0
    remarks: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    found: Verdict = field(default_factory=Verdict)
    saw: dict[str, dict[str, Any]] = field(default_factory=dict)

    def assert_nothing_lost(self) -> None:
        """No message that was answered 250; nothing is there that was refused, and nobody missed one, saw one twice or
        in another order."""
        tally = self.found.tally
        assert tally.acknowledged, tally
        found = self.found
        assert found.clean, (tally, found.unread, found.strays, found.gaps, found.missed, found.mistold, found.wrong)
        for how, saw in self.saw.items():
            assert saw["numbers"] == sorted(set(saw["numbers"])), (how, saw)

    def assert_nothing_noticed(self) -> None:
        """No connect was lost either, no message went unsent, no wait failed."""
        self.assert_nothing_lost()
        noticed = {name: self.result[name] for name in ("lost", "busy", "cut", "unknown", "unsent")}
        assert not any(noticed.values()), (noticed, self.result["notes"])
        for how, saw in self.saw.items():
            assert saw["problems"] == [], (how, saw)


def a_plan(stack: Deployment, recipients: Sequence[str], port: int = MX, **more: Any) -> Plan:
    """Twenty messages a second to all machines in turn."""
    servers = [(each, port) for each in stack.addresses]
    plan = Plan(servers, list(recipients), kept=3, sources=stack.lab.near.v4[:100], spread=True)
    return replace(plan, **more)


@contextmanager
def trial(
    stack: Deployment,
    table: Table,
    folder: Path,
    what: str,
    *,
    watch: Sequence[str] = (),
    seconds: float = 90,
    submission: int = 0,
    **more: Any,
) -> Iterator[Trial]:
    """Let mail flow around what happens in the ``with``. ``submission`` is the port for mail with a password and
    STARTTLS instead of 25; ``seconds`` is how long mail may take to be there afterwards."""
    with stack.farm() as farm:
        inbox = farm.create_mailbox()
        label = f"trial{next(_NUMBERS)}"
        if submission:
            user = {"security": "starttls", "user": inbox.smtp.user, "secret": inbox.smtp.password, "rate": 10.0}
            plan = a_plan(stack, [inbox.address], submission, label=label, **user, **more)
        else:
            plan = a_plan(stack, [inbox.address], label=label, **more)
        with following(stack, inbox, watch, folder / label, seconds) as followers, Steady(None, folder, plan) as steady:
            steady.flowing(FLOWING)
            run = Trial(inbox, steady)
            began = time.monotonic()
            yield run
            run.took = run.took or time.monotonic() - began
            steady.flowing(FLOWING, seconds)
            run.result = steady.stop()
            run.found = judged(lambda: stack.farm(timeout=60), steady, seconds)
            if followers is not None:
                counted = followers.finish({inbox.id: run.found.last(inbox.address)})
                for how in watch:
                    told = followers.saw(how, inbox.id)
                    run.found.heard(how, inbox.address, told)
                    numbers = [each.number for each in told]
                    run.saw[how] = {**counted[f"{how} {inbox.id}"], "numbers": numbers}
        cuts = ", ".join(f"{how} cut {saw['cuts']}×" for how, saw in run.saw.items() if saw["cuts"])
        remarks = "; ".join(each for each in (run.remarks, cuts) if each)
        stack.tell(table.event(what, run.took, run.result, len(run.found.tally.lost), remarks))


@contextmanager
def following(
    stack: Deployment, inbox: Inbox, watch: Sequence[str], folder: Path, seconds: float
) -> Iterator[Following | None]:
    """Followers of a mailbox's events, one of each kind in ``watch``; each has ``seconds`` to see the last of them."""
    if not watch:
        yield None
        return
    watched, cafile = [(how, inbox.id) for how in watch], str(stack.authority)
    plan = FollowerPlan(
        stack.url, stack.url, watched, str(folder), stack.token, cafile, tuple(stack.addresses), seconds
    )
    followers = Following(plan)
    try:
        followers.start()
        yield followers
    finally:
        followers.kill()
