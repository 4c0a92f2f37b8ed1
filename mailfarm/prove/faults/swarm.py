"""What happens to a stack on a Docker Swarm: containers that die or stall, updates, nodes that go, networks that part.

A container is killed by its id; what starts another, moves it or replaces one that no longer answers is the Swarm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mailfarm.prove.docker import DockerError, Node
from mailfarm.prove.target import Target

from . import Fault, NotHere, Tell

if TYPE_CHECKING:
    from mailfarm.prove.stack import Stack, Task

LEASES = 75.0
"""Seconds: longer than every lease; the longest is a worker's, a minute."""
QUEUE = "redis-queue"
STORES = (QUEUE, "redis-cache", "postgres")


class Swarm(Fault):
    """What these faults have in common."""

    family = "swarm"
    targets = ("stack",)
    short = True

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        from mailfarm.prove.stack import Stack

        assert isinstance(target, Stack)
        self.strike(target, dice, tell)

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """The same, of a stack."""
        raise NotImplementedError


class Kill(Swarm):
    """See ``says``."""

    name = "swarm-kill"
    family = "kills"
    at_once = 12
    says = "SIGKILL of one container of every service, in any order, a moment apart"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        by_service: dict[str, list[Task]] = {}
        for task in stack.tasks():
            by_service.setdefault(task.service, []).append(task)
        victims = [dice.choice(tasks) for _, tasks in sorted(by_service.items())]
        dice.shuffle(victims)
        killed = 0
        for task in victims:
            time.sleep(dice.uniform(0, 1.5))
            try:
                task.kill()
            except DockerError as error:  # it ended by itself, without one that was killed before
                tell(f"not killed: {error}")
            else:
                tell(f"killed {task.name}")
                killed += 1
        if not killed:
            raise DockerError("no container could be killed")


class Pause(Swarm):
    """See ``says``."""

    name = "swarm-pause"
    short = False
    says = "all workers stall for longer than every lease, and wake"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        tasks = stack.tasks("inbound")
        try:
            for task in tasks:
                tell(f"pause {task.name}")
                task.pause()
            time.sleep(LEASES)
        finally:
            for task in tasks:
                task.resume()


class Update(Swarm):
    """See ``says``."""

    name = "swarm-update"
    says = "a rolling update of all of mailfarm's services at the same time"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        services = stack.services()
        ours = next(service.image for service in services if service.name == "mx")
        names = [service.name for service in services if service.image == ours]
        with ThreadPoolExecutor(len(names)) as pool:
            took = list(pool.map(stack.update, names))
        tell(f"updated in {max(took):.0f} s")


class Scale(Swarm):
    """See ``says``."""

    name = "swarm-scale"
    says = "two more replicas of mx and inbound, and back again"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        before = {service.name: service.wanted for service in stack.services() if service.name in ("mx", "inbound")}
        try:
            _scale(stack, {name: count + 2 for name, count in before.items()})
            time.sleep(dice.uniform(1, 3))
        finally:
            _scale(stack, before)


class Part(Swarm):
    """See ``says``."""

    name = "swarm-part"
    says = "the network between a service and a store is cut, without a word to either"
    seconds: Sequence[float] = (5.0, 20.0)
    services: Sequence[str] = ("mx", "submission", "inbound")
    stores: Sequence[str] = STORES

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        service = dice.choice(stack.tasks(*self.services))
        store = dice.choice([task for task in stack.tasks() if task.kind in self.stores])
        tell(f"part {service.name} and {store.name}")
        with stack.parted(service, store):
            time.sleep(dice.choice(self.seconds))


class Queues(Swarm):
    """See ``says``."""

    name = "swarm-queues"
    says = "every shard of the queue is stopped at the same time, and started again"
    short = False

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        shards = {service.name: service.wanted for service in stack.services() if service.name.startswith(QUEUE)}
        if not any(shards.values()):
            raise NotHere("the queue's servers are not the stack's own")
        tell(f"stop {', '.join(shards)}")
        try:
            _scale(stack, dict.fromkeys(shards, 0))
            time.sleep(dice.uniform(5, 15))
        finally:
            _scale(stack, shards)


class PartLong(Part):
    """See ``says``."""

    name = "swarm-part-long"
    says = "the network between a worker and a store is cut, for longer than every lease"
    short = False
    seconds = (LEASES,)
    services = ("inbound",)
    stores = (QUEUE, "postgres")


class Drain(Swarm):
    """See ``says``."""

    name = "swarm-drain"
    says = "a node is drained, as for work on it, and active again"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        nodes = _nodes(stack)
        if len(nodes) < 2:
            raise NotHere("needs a second node")
        node = dice.choice(nodes)
        tell(f"drain {node.name}")
        with stack.drained(node):
            stack.until(lambda: _bare(stack, node), 120, f"{node.name} without tasks")
            time.sleep(dice.uniform(1, 3))


class Power(Swarm):
    """See ``says``."""

    name = "swarm-power"
    says = "a whole node loses power, and is back (by --power-off and --power-on)"

    def strike(self, stack: Stack, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        if not stack.has_power_switch():
            raise NotHere("needs --power-off and --power-on, the commands that turn a node off and on")
        nodes = _nodes(stack)
        spare = sum(bool(node.manager) for node in nodes) > 2  # else the Swarm has no majority without it
        nodes = [node for node in nodes if node.name != stack.swarm.home and (spare or not node.manager)]
        if not nodes:
            raise NotHere("needs a worker node, or three managers")
        node = dice.choice(nodes)
        tell(f"power off {node.name}")
        with stack.dark(node):
            stack.until(lambda: _lost(stack, node), 60, f"{node.name} down")
            time.sleep(dice.uniform(1, 10))


def _bare(stack: Stack, node: Node) -> bool:
    return all(each.node != node.name for each in stack.swarm.containers(stack.stack))


def _lost(stack: Stack, node: Node) -> bool:
    return all(each.ready is False for each in stack.swarm.nodes() if each.id == node.id)


def _nodes(stack: Stack) -> list[Node]:
    """Those that work, by name."""
    return sorted((node for node in stack.swarm.nodes() if node.ready and node.active), key=lambda node: node.name)


def _scale(stack: Stack, counts: dict[str, int]) -> None:
    with ThreadPoolExecutor(len(counts)) as pool:
        list(pool.map(stack.scale, counts, counts.values()))


def faults() -> list[Fault]:
    """One of each."""
    return [Kill(), Update(), Scale(), Part(), Drain(), Power(), Queues(), Pause(), PartLong()]
