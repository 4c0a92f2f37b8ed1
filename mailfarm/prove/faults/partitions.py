"""Partitions between any two parts: packets are lost, one way or both, and nobody is told.

A wire between the two stalls, without FIN and without RST; new connects hang, or are accepted and hear nothing. Healed,
it hands on what it held, so that answers and the ends of leases come too late.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, Literal

from mailfarm.prove.target import Options, Part, Target

from . import Fault, Tell
from .roles import roles
from .stops import BEHIND_SENTINEL, LEASES, LONG_PAST, LONGEST, PAST

PAIRS = {
    "mx": ("redis-queue", "postgres", "redis-cache"),
    "submission": ("redis-queue", "postgres", "redis-cache"),
    "inbound": ("redis-queue", "postgres", "redis-cache"),
    "sweep": ("postgres", "redis-cache"),
    "api": ("redis-queue", "postgres", "redis-cache"),
    "live": ("postgres", "redis-cache"),
}
"""Which service goes to which stores."""
QUEUE_USERS = ("mx", "submission", "inbound", "api")
IN_SHORT = {("mx", "redis-queue"), ("inbound", "postgres")}
"""Those of the short run."""
WAYS: tuple[Literal["both", "up", "down"], ...] = ("both", "up", "down")
CONNECTS: tuple[Literal["hang", "silent"], ...] = ("hang", "silent")


class Partition(Fault):
    """A service and a store are parted for each of ``seconds``, one after the other."""

    family = "partitions"

    def __init__(self, service: str, store: str, *, long: bool) -> None:
        self._service, self._store = service, store
        self.short = not long and (service, store) in IN_SHORT
        leases = service == "inbound" or store == "redis-cache"  # the worker's own, and places in the limiter
        self._seconds = [LONGEST, *([LONG_PAST] if leases else [])] if long else [1.0, PAST]
        self.name = f"partition-{'long-' if long else ''}{service}-{store}"
        self.lasts = sum(self._seconds) + len(self._seconds)
        times = ", then for ".join(f"{seconds:g} s" for seconds in self._seconds)
        self.says = f"no packet passes between {service} and {store} for {times}"
        self.options = Options(replicas={"inbound": 2}) if long else LEASES

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        service = dice.choice(target.of(self._service))
        wire = target.wire(service.name, self.store(target, dice).name)
        for number, seconds in enumerate(self._seconds):
            time.sleep(number)  # between two, it works again
            way, connects = dice.choice(WAYS), dice.choice(CONNECTS)
            tell(f"{wire.name}: {way} for {seconds:g} s, connects {connects}")
            wire.stall(way, connects)
            try:
                time.sleep(seconds)
            finally:
                wire.heal()

    def store(self, target: Target, dice: random.Random) -> Part:
        """Which one of its kind."""
        return dice.choice(target.of(self._store))


class SentinelPartition(Partition):
    """A service and the Sentinel that tells it where the queue's master is, or that master; Sentinel itself sees the
    master all the time, and so does the replica."""

    short = False

    def __init__(self, service: str, store: Literal["sentinel", "queue-master"], *, long: bool) -> None:
        super().__init__(service, store, long=long)
        self.options = BEHIND_SENTINEL[long]
        self._master = store == "queue-master"

    def store(self, target: Target, dice: random.Random) -> Part:
        """The master of the moment. Raises NotHere."""
        return roles(target)[0] if self._master else super().store(target, dice)


class ReplicaPartition(Fault):
    """The queue's master and its replica are parted: nobody can confirm mail, so none is acknowledged."""

    family = "partitions"

    short = False

    def __init__(self, *, long: bool) -> None:
        self._seconds = [LONGEST] if long else [1.0, PAST]
        self.name = f"partition-{'long-' if long else ''}replica"
        self.lasts = sum(self._seconds) + len(self._seconds)
        times = ", then for ".join(f"{seconds:g} s" for seconds in self._seconds)
        self.says = f"no packet passes between the queue's master and its replica for {times}"
        self.options = Options(sentinel=True)

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        parts = roles(target)
        master, replica = (server_of(part) for part in parts)
        wire = target.wire(parts[1].name, parts[0].name)
        sentinels = [server_of(part) for part in target.of("sentinel")]
        for sentinel in sentinels:  # or it would lead the replica past the wire
            sentinel.ask("sentinel", "set", "farm", "failover-timeout", "600000")
        try:
            replica.follow(master, wire.port)
            for number, seconds in enumerate(self._seconds):
                time.sleep(number)
                tell(f"{wire.name}: for {seconds:g} s")
                wire.stall(connects=dice.choice(CONNECTS))
                try:
                    time.sleep(seconds)
                finally:
                    wire.heal()
        finally:
            replica.follow(master)
            for sentinel in sentinels:
                sentinel.ask("sentinel", "set", "farm", "failover-timeout", "3000")


def server_of(part: Part) -> Any:
    """What ``servers`` made of a store."""
    return getattr(part, "server", None)


def faults() -> Iterator[Fault]:
    """Each pair, for a moment and for long."""
    for long in (False, True):
        for service, stores in PAIRS.items():
            for store in stores:
                yield Partition(service, store, long=long)
        for service in QUEUE_USERS:
            yield SentinelPartition(service, "sentinel", long=long)
            yield SentinelPartition(service, "queue-master", long=long)
        yield ReplicaPartition(long=long)
