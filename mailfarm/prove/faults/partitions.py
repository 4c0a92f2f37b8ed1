"""Partitions between any two parts: packets are lost, one way or both, and nobody is told.

A wire between the two stalls, without FIN and without RST; new connects hang, or are accepted and hear nothing. Healed,
it hands on what it held, so that answers and the ends of leases come too late.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, Literal

from mailfarm.prove.target import Options, Target

from . import Fault, NotHere, Tell
from .stops import LEASES, LONG_PAST, LONGEST, PAST

PAIRS = {
    "mx": ("redis-queue", "postgres", "redis-cache"),
    "submission": ("redis-queue", "postgres", "redis-cache"),
    "inbound": ("redis-queue", "postgres", "redis-cache"),
    "sweep": ("postgres", "redis-cache"),
    "api": ("redis-queue", "postgres", "redis-cache"),
    "live": ("postgres", "redis-cache"),
}
"""Which service goes to which stores."""
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
        leases = service == "inbound"
        self._seconds = [LONGEST, *([LONG_PAST] if leases else [])] if long else [1.0, PAST]
        self.name = f"partition-{'long-' if long else ''}{service}-{store}"
        self.lasts = sum(self._seconds) + 3 * len(self._seconds)
        times = ", then for ".join(f"{seconds:g} s" for seconds in self._seconds)
        self.says = f"no packet passes between {service} and {store} for {times}"
        self.options = Options(replicas={"inbound": 2}) if long else LEASES

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        service, store = dice.choice(target.of(self._service)), dice.choice(target.of(self._store))
        wire = target.wire(service.name, store.name)
        for number, seconds in enumerate(self._seconds):
            time.sleep(number)  # between two, it works again
            way, connects = dice.choice(WAYS), dice.choice(CONNECTS)
            tell(f"{wire.name}: {way} for {seconds:g} s, connects {connects}")
            wire.stall(way, connects)
            try:
                time.sleep(seconds)
            finally:
                wire.heal()


class ReplicaPartition(Fault):
    """The queue's master and its replica are parted: nobody can confirm mail, so none is acknowledged."""

    family = "partitions"

    short = False

    def __init__(self, *, long: bool) -> None:
        self._seconds = [LONGEST] if long else [1.0, PAST]
        self.name = f"partition-{'long-' if long else ''}replica"
        self.lasts = sum(self._seconds) + 3 * len(self._seconds)
        times = ", then for ".join(f"{seconds:g} s" for seconds in self._seconds)
        self.says = f"no packet passes between the queue's master and its replica for {times}"
        self.options = Options(sentinel=True)

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        # they are whoever is it now: another fault may have promoted the replica
        servers: list[Any] = [getattr(part, "server", None) for part in target.of("redis-queue")]
        roles = [server.ask("role").split()[0] for server in servers if server is not None]
        if sorted(roles) != ["master", "slave"]:
            raise NotHere(f"the queue's servers are {' and '.join(roles) or 'not ours'}")
        master, replica = (servers[roles.index(role)] for role in ("master", "slave"))
        names = [part.name for part in target.of("redis-queue")]
        wire = target.wire(names[roles.index("slave")], names[roles.index("master")])
        sentinels: list[Any] = [getattr(part, "server", None) for part in target.of("sentinel")]
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


def faults() -> Iterator[Fault]:
    """Each pair, for a moment and for long."""
    for long in (False, True):
        for service, stores in PAIRS.items():
            for store in stores:
                yield Partition(service, store, long=long)
        yield ReplicaPartition(long=long)
