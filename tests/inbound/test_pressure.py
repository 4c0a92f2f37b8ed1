"""Everyone's share while mail comes in faster than it is filed; a queue and its workers are a simulation, in steps of
a hundredth of a second, with the figures that the real one tells once a second."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from mailfarm.backends.queue_wait import Ahead, Wait
from mailfarm.errors import QueueBehind
from mailfarm.inbound.pressure import Pressure, Sender

STEP = 0.01


@dataclass
class Farm:
    """``pace``: messages a second that are filed; ``allowed``: seconds that mail may wait."""

    pace: float
    allowed: float
    listeners: int = 1
    now: float = 1000.0
    waiting: list[float] = field(default_factory=list)
    filed: float = 0.0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.doors = [
            Pressure(f"mx{n}", lambda: self.now, self.registry, self.told.append) for n in range(self.listeners)
        ]
        self.looks = [Wait() for _ in self.doors]
        self._due: Counter[str] = Counter()
        self._looked = 0.0

    def run(self, seconds: float, rates: dict[str, float]) -> None:
        """Each sender offers so many a second."""
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            if self.now - self._looked >= 1.0:
                self._looked = self.now
                for wait in self.looks:
                    wait.saw(self.now, Ahead(len(self.waiting), 0, int(self.filed)))
            for name, rate in rates.items():
                self._due[name] += rate * STEP
                while self._due[name] >= 1:
                    self._due[name] -= 1
                    self._offer(name)
            done = min(len(self.waiting), int(self.filed + self.pace * STEP) - int(self.filed))
            self.filed += self.pace * STEP if self.waiting else 0.0
            self.waits += [self.now - put for put in self.waiting[:done]]
            del self.waiting[:done]

    def _offer(self, name: str) -> None:
        number = (self.accepted[name] + self.refused[name]) % len(self.doors)
        door, wait = self.doors[number], self.looks[number]
        if (by := wait.at(self.now) / self.allowed) >= QueueBehind.HALF:
            door.behind(QueueBehind("mail waits", by, self.allowed))
        if door.may(Sender(name.partition("/")[0], name), count=True):
            self.accepted[name] += 1
            self.waiting.append(self.now)
            wait.put(1)
        else:
            self.refused[name] += 1

    def forget(self) -> None:
        self.accepted.clear()
        self.refused.clear()
        self.waits.clear()


def test_nobody_is_refused_while_filing_keeps_up() -> None:
    farm = Farm(pace=100, allowed=5)
    farm.run(30, {"a": 60, "b": 30})
    assert not farm.refused
    assert farm.doors[0].none


@pytest.mark.parametrize("listeners", [1, 3])
def test_ten_times_what_can_be_filed_keeps_the_wait_bounded_and_the_workers_busy(listeners: int) -> None:
    farm = Farm(pace=100, allowed=5, listeners=listeners)
    farm.run(10, {"a": 50})
    farm.run(60, {"a": 500, "b": 500})
    # a second of ten times as much came in before the figures said so
    assert max(farm.waits) < 5 * QueueBehind.NOBODY + 2
    farm.forget()
    farm.run(60, {"a": 500, "b": 500})
    assert max(farm.waits) < 5 * 1.5
    assert sum(farm.accepted.values()) > 0.9 * 60 * 100
    assert farm.accepted["a"] == pytest.approx(farm.accepted["b"], rel=0.1)


def test_who_brings_less_than_a_share_notices_nothing_of_one_that_brings_fifty_times_as_much() -> None:
    farm = Farm(pace=100, allowed=5)
    farm.run(10, {"quiet": 20})
    farm.run(20, {"quiet": 20, "noisy": 1000})  # it takes as long to find the share
    farm.forget()
    farm.run(60, {"quiet": 20, "noisy": 1000})
    assert farm.refused["quiet"] <= 0.01 * farm.accepted["quiet"]
    assert farm.accepted["noisy"] > 0.8 * 60 * 80
    assert farm.refused["noisy"] > 50_000


def test_what_was_let_in_until_nobody_was_makes_the_share_smaller_so_that_it_does_not_stay_so() -> None:
    farm = Farm(pace=100, allowed=5)
    farm.run(10, {"quiet": 20})
    farm.run(2, {"quiet": 20, "noisy": 1000})
    assert farm.doors[0].closed
    farm.run(4, {"quiet": 20, "noisy": 1000})
    farm.forget()
    farm.run(10, {"quiet": 20, "noisy": 1000})
    assert not farm.refused["quiet"]
    farm.forget()
    farm.run(10, {"quiet": 20, "noisy": 1000})
    farm.waits.clear()
    farm.run(10, {"quiet": 20, "noisy": 1000})
    assert max(farm.waits) < 5 * 1.2


def test_with_the_wait_that_is_allowed_by_default_the_share_does_not_shrink_for_ever() -> None:
    farm = Farm(pace=100, allowed=60)
    farm.run(10, {"quiet": 20})
    farm.run(120, {"quiet": 20, "noisy": 1000})
    assert max(farm.waits) < 60 * 1.5
    assert not farm.refused["quiet"]
    assert sum(farm.accepted.values()) > 0.95 * 120 * 100


def test_after_an_outage_of_the_workers_who_brings_less_than_they_file_is_soon_let_in_again() -> None:
    farm = Farm(pace=100, allowed=60)
    farm.run(30, {"a": 35, "b": 35})
    farm.pace = 0
    farm.run(120, {"a": 35, "b": 35})
    assert not farm.refused
    farm.pace = 100
    farm.run(120, {"a": 35, "b": 35})
    farm.forget()
    farm.run(60, {"a": 35, "b": 35})
    assert not farm.refused


def test_a_noisy_credential_takes_nothing_from_another_of_its_account_nor_does_one_account_get_more_by_many() -> None:
    farm = Farm(pace=100, allowed=5)
    noisy = {f"big/{n}": 100.0 for n in range(10)}
    farm.run(40, {"small/1": 15, "big/quiet": 2, **noisy})
    farm.forget()
    farm.run(60, {"small/1": 15, "big/quiet": 2, **noisy})
    assert farm.refused["small/1"] <= 0.01 * farm.accepted["small/1"]
    assert farm.refused["big/quiet"] <= 0.05 * farm.accepted["big/quiet"]


def test_it_is_over_by_itself_and_what_was_counted_is_forgotten() -> None:
    farm = Farm(pace=100, allowed=5)
    farm.run(30, {f"{n}": 20.0 for n in range(50)})
    door = farm.doors[0]
    assert not door.none
    farm.run(40, {"a": 50})
    farm.forget()
    farm.run(30, {"a": 90})
    assert not farm.refused
    assert door.none
    assert len(door._counts) + len(door._before) <= 2
    assert farm.registry.get_sample_value("mailfarm_mx0_share") == -1
    assert [text.partition(":")[0] for text in farm.told] == [
        "Mail comes in faster than it is filed",
        "Filing keeps up again",
    ]
    assert farm.registry.get_sample_value("mailfarm_mx0_over_share_total") > 1000


def test_twice_too_far_behind_nobody_is_let_in_nor_greeted_until_it_is_better() -> None:
    now = [10.0]
    door = Pressure("mx", lambda: now[0], CollectorRegistry())
    assert door.may_come("")
    door.behind(QueueBehind("far behind", 2.0))
    assert not door.may_come("")
    assert not door.may(Sender("a", "a"), count=True)
    now[0] += 1.0
    assert door.may_come("")
    assert door.may(Sender("a", "a"), count=True)


def test_a_network_that_has_had_its_share_is_not_greeted_and_others_are() -> None:
    now = [10.0]
    door = Pressure("mx", lambda: now[0], CollectorRegistry())
    door.behind(QueueBehind("behind", 1.1))
    now[0] += 1.0
    assert door.may(Sender("192.0.2.1", "192.0.2.1"), count=True)
    assert door.share == 1.0
    assert not door.may_come("192.0.2.1")
    assert door.may_come("192.0.2.2")


def test_how_far_behind_the_queue_was_an_hour_ago_refuses_nobody() -> None:
    now = [10.0]
    told: list[str] = []
    door = Pressure("mx", lambda: now[0], CollectorRegistry(), told.append)
    door.behind(QueueBehind("behind", 1.1))  # then nobody comes any more
    now[0] += 3600.0
    assert all(door.may(Sender("a", "a"), count=True) for _ in range(5))
    assert told == []
    door.behind(QueueBehind("behind", 1.1))
    now[0] += 1.0
    assert not all(door.may(Sender("a", "a"), count=True) for _ in range(5))
    door.behind(QueueBehind("behind", 1.2))
    now[0] += 3600.0
    assert all(door.may(Sender("a", "a"), count=True) for _ in range(5))
    assert door.none
