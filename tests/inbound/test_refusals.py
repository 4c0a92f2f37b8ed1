"""What was refused is told, and a flood of it is not."""

from __future__ import annotations

import os

from mailfarm.backends.memory import MemoryBus
from mailfarm.events import Refused
from mailfarm.ids import Ids
from mailfarm.inbound import refusals
from mailfarm.inbound.refusals import IN_ALL, LINES, PER_ADDRESS, UNCLAIMED, WIDTH, Refusal, Refusals, Unclaimed
from mailfarm.mail.reply import Reply
from mailfarm.ports import Origin

ORIGIN = Origin("mx", "192.0.2.7", 40000, "client.test", "ESMTP")
NO = Reply(550, "5.1.1", "no")


class Telling:
    def __init__(self) -> None:
        self.now = 1_000_000_000_000
        self.heard: list[Refused] = []
        bus = MemoryBus()
        bus.subscribe("refused", self.heard.append)
        self.refusals = Refusals(bus, Ids(lambda: self.now, os.urandom), lambda: self.now, "mx")

    def tell(self, address: str) -> bool:
        return self.refusals.tell("acc", Refusal(address, "a@b.example", ORIGIN, NO, ("C: x", "S: y")), "box")


def test_a_refusal_says_everything() -> None:
    telling = Telling()
    assert telling.tell("x@mx.test")
    (event,) = telling.heard
    assert (event.account, event.address, event.sender, event.code, event.enhanced, event.text) == (
        "acc", "x@mx.test", "a@b.example", 550, "5.1.1", "no",
    )  # fmt: skip
    assert event.mailbox == "box"
    assert (event.service, event.client, event.lines, event.at) == ("mx", "192.0.2.7", ("C: x", "S: y"), telling.now)


def test_an_address_has_its_share_whatever_its_case_and_gets_it_again() -> None:
    telling = Telling()
    told = [telling.tell("x@mx.test") for _ in range(PER_ADDRESS.count)]
    assert all(told)
    assert not telling.tell("X@MX.test")
    assert telling.tell("y@mx.test"), "others are not disturbed"
    assert telling.refusals.dropped == 1
    telling.now += int(PER_ADDRESS.period * 1_000_000)
    assert telling.tell("x@mx.test")


def test_all_together_have_a_cap_too() -> None:
    telling = Telling()
    told = sum(telling.tell(f"x{n}@mx.test") for n in range(IN_ALL.count + 500))
    assert told == IN_ALL.count == len(telling.heard)


def test_what_is_remembered_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(refusals, "ADDRESSES", 10)
    telling = Telling()
    for n in range(100):
        telling.tell(f"x{n}@mx.test")
    assert len(telling.refusals._tats) == 10


def test_what_nobody_may_see_is_not_told_and_costs_nothing() -> None:
    telling = Telling()
    assert not telling.refusals.tell("", Refusal("x@elsewhere.example", "", ORIGIN, NO, ()))
    assert not telling.heard
    assert telling.refusals.dropped == 0


def test_what_is_told_is_short() -> None:
    telling = Telling()
    lines = tuple(f"C: {n} " + "x" * 1000 for n in range(20))
    telling.refusals.tell("acc", Refusal("x" * 1000, "y" * 1000, ORIGIN, Reply(550, "5.1.1", "z" * 400), lines))
    (event,) = telling.heard
    assert [len(line) for line in event.lines] == [WIDTH] * LINES
    assert event.lines[-1].startswith("C: 19 ")
    assert {len(event.address), len(event.sender), len(event.text)} == {WIDTH}


def test_what_is_nobodys_yet_waits_for_the_recipient_that_says_it() -> None:
    telling = Telling()
    unclaimed = Unclaimed(telling.refusals)
    for n in range(UNCLAIMED + 5):
        unclaimed.add(Refusal(f"x{n}", "", ORIGIN, NO, ()))
    assert not telling.heard
    unclaimed.claim("acc", "box")
    assert [(each.account, each.mailbox) for each in telling.heard] == [("acc", "box")] * UNCLAIMED
    unclaimed.add(Refusal("later", "", ORIGIN, NO, ()))
    assert (telling.heard[-1].address, telling.heard[-1].mailbox) == ("later", "box")
    unclaimed.settle(lambda address: "nobody")
    assert len(telling.heard) == UNCLAIMED + 1
    other = Unclaimed(telling.refusals)
    other.add(Refusal("mine", "", ORIGIN, NO, ()))
    other.add(Refusal("nobody's", "", ORIGIN, NO, ()))
    other.settle(lambda address: "acc" if address == "mine" else "")
    assert [each.address for each in telling.heard[UNCLAIMED + 1 :]] == ["mine"]
