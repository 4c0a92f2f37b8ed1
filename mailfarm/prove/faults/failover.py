"""The queue's master is lost while its replica lags behind, and the replica is promoted.

With Sentinel mailfarm says 250 when the replica has the entry too (WAIT), so nothing that it acknowledged is lost. It
asks that only where sentinels told it of a replica. So the control is the same with a plain ``redis://``, where people
have put another server at the address of the one that was lost: there mail must be lost.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

from mailfarm.prove.processes import StorePart
from mailfarm.prove.servers import Redis, Sentinel
from mailfarm.prove.target import Options, Part, Target

from . import Fault, Tell
from .queued import queued, until
from .redis import server

LAG = 1.0
"""Seconds for which the replica hears nothing before the master is killed, about."""


class Failover(Fault):
    """The replica hears nothing for a moment, the master is killed, and Sentinel promotes the replica."""

    name = "redis-failover"
    family = "redis"
    says = "the queue's master is killed while its replica lags, and Sentinel promotes the replica"
    options = Options(sentinel=True, redis_options=("--repl-diskless-sync-delay", "0"))
    times = 2
    lasts = 15.0

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        master, replica = _roles(target)
        promoted = server(replica)
        with queued(target):
            _lose(target, master, replica, dice)
            until(lambda: _announced(target) == promoted.port, "Sentinel promotes the replica, and says so", 60)
            target.wire(replica.name, master.name).heal()
            master.start()
            # mostly the old master; on a busy machine Sentinel takes the new one for lost, and promotes the old one
            until(lambda: _settled(target), "one of the two follows the other", 60)


class KillSentinel(Fault):
    """Who knows the master is gone for a moment, and comes back."""

    name = "kill-sentinel"
    family = "redis"
    says = "SIGKILL of Sentinel at a random moment while mail flows"
    options = Failover.options
    times = 3

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        (sentinel,) = target.of("sentinel")
        before, away = dice.uniform(0, 1), dice.uniform(0, 3)
        tell(f"after {before:.3f} s, away for {away:.3f} s")
        time.sleep(before)
        sentinel.kill()
        time.sleep(away)
        sentinel.start()


class WithoutWait(Fault):
    """The control: nobody waits for the replica, and it takes the lost master's address."""

    name = "redis-failover-without-wait"
    family = "redis"
    says = "control: the same where nobody waits for the replica, which must lose mail"
    control = True
    options = Options(replicas={"redis-queue": 2})

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        master, replica = _roles(target)
        promoted = server(replica)
        with queued(target):
            _lose(target, master, replica, dice)
            promoted.ask("replicaof", "no", "one")
            for service in [*target.of("mx"), *target.of("submission"), *target.of("inbound"), *target.of("api")]:
                target.wire(service.name, master.name).point(("127.0.0.1", promoted.port))
            master.start()


def _lose(target: Target, master: Part, replica: Part, dice: random.Random) -> None:
    """Nothing reaches the replica any more, and then the master is gone. Not for so long that Sentinel would see to it
    that the replica asks its master by the direct way."""
    wire, behind = target.wire(replica.name, master.name), server(replica)
    behind.ask("replicaof", wire.host, str(wire.port))
    until(lambda: "master_link_status:up" in behind.ask("info", "replication"), "the replica follows")
    until(lambda: server(master).ask("wait", "1", "100") != "0", "the replica has everything")
    wire.stall()
    time.sleep(dice.uniform(0.8, 1.2) * LAG)
    master.kill()
    wire.cut()


def _roles(target: Target) -> tuple[Part, Part]:
    """The master and the replica."""
    one, other = target.part("redis-queue-1"), target.part("redis-queue-1-replica")
    return (one, other) if _master(server(one)) else (other, one)


def _announced(target: Target) -> int:
    """The port of the master that Sentinel tells who asks."""
    (sentinel,) = target.of("sentinel")
    assert isinstance(sentinel, StorePart)
    assert isinstance(sentinel.server, Sentinel)
    return int(sentinel.server.ask("sentinel", "get-master-addr-by-name", "farm").split()[1])


def _settled(target: Target) -> bool:
    """Whether he is the master whom Sentinel names, and he alone."""
    named = _announced(target)
    return all(_master(server(part)) == (server(part).port == named) for part in target.of("redis-queue"))


def _master(redis: Redis) -> bool:
    try:
        return redis.ask("role").startswith("master")
    except subprocess.CalledProcessError:  # who changes its role closes its connections
        return False


def faults() -> Iterator[Fault]:
    """One of each."""
    yield Failover()
    yield KillSentinel()
    yield WithoutWait()
