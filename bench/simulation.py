"""A farm as a set of queues, simulated message by message: what waits where, and for how long.

Discrete events in the order of their time; service times are given (``Costs``) and come from measurements. What is in
it: replicas of mx with one core each, first come first served and with a cap on sessions; shards of the queue that
make durable what has arrived, many in one call; workers that parse one batch while the one before commits; a database
with some cores; nodes that lose power, load balancers that go on leading there for a while, replicas that are made
anew elsewhere; senders that try the next address at once and, when nobody takes their mail, again later.

What is not in it: the network, the clients' own time, other work on the machines, pauses of the interpreter. Every
message is of one size.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

IN_FLIGHT = 2
"""Calls under way to a shard, and batches under way in a worker."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core a message takes in each service, and of the disk for one commit."""

    mx: float
    queue: float
    inbound: float
    database: float
    sync: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The farm. ``database_node`` is the node with the database."""

    nodes: int = 3
    mx: int = 2
    shards: int = 2
    workers: int = 2
    database_cores: int = 4
    database_node: int = 2
    put: int = 200
    batch: int = 100
    sessions: int = 1000
    waiting: int = 1_000_000
    timeout: float = 4.0
    lease: float = 60.0
    left_out: float = 6.0
    replaced: float = 20.0
    again: float = 60.0


@dataclass(slots=True)
class Second:
    """What happened in one second."""

    arrived: int = 0
    accepted: int = 0
    filed: int = 0
    cut: int = 0
    refused: int = 0
    waiting: int = 0
    answers: list[float] = field(default_factory=list)
    readable: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Message:
    """When it came to a listener, which one and in which of its lives, and when it was accepted (0: not yet)."""

    came: float = 0.0
    accepted: float = 0.0
    place: _Place | None = None
    life: int = 0


@dataclass(slots=True)
class _Place:
    """A replica: on which node, alive or not, and until when its core is taken."""

    node: int
    up: bool = True
    known: bool = True
    free: float = 0.0
    inside: int = 0
    life: int = 0


@dataclass(slots=True)
class _Shard(_Place):
    """``arriving`` waits to be made durable, ``entries`` is durable and waits for a worker."""

    arriving: list[_Message] = field(default_factory=list)
    entries: deque[_Message] = field(default_factory=deque)


class Farm:
    """One run. ``rate`` gives messages a second at a time; ``seed`` decides the dice."""

    def __init__(self, shape: Shape, costs: Costs, rate: Callable[[float], float], seed: int = 1) -> None:
        self.shape, self.costs, self._rate = shape, costs, rate
        self.now = 0.0
        self.seconds: list[Second] = []
        self.outside = 0
        """Messages whose senders wait to try again."""
        self._dice = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = count()
        self._mx = [_Place(number % shape.nodes) for number in range(shape.mx)]
        self._shards = [_Shard(number % shape.nodes) for number in range(shape.shards)]
        self._workers = [_Place(number % shape.nodes) for number in range(shape.workers)]
        self._cores = [0.0] * shape.database_cores
        self._database = True
        self._turn = 0

    # --- the run ----------------------------------------------------------------------------------------------------
    def run(self, seconds: float) -> list[Second]:
        """Let so much time pass; what happened in each second of it."""
        end = self.now + seconds
        self._at(self.now, self._arrive, end)
        for second in range(int(seconds)):
            self._at(self.now + second + 1, self._look)
        while self._events and self._events[0][0] <= end:
            self.now, _, happens, words = heapq.heappop(self._events)
            happens(*words)
        self.now = end
        return self.seconds

    def inside(self) -> int:
        """Accepted and not filed yet."""
        seen = self.seconds
        return sum(each.accepted for each in seen) - sum(each.filed for each in seen)

    def _at(self, when: float, happens: Callable[..., None], *words: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens, words))

    def _second(self) -> Second:
        while len(self.seconds) <= int(self.now):
            self.seconds.append(Second())
        return self.seconds[int(self.now)]

    def _look(self) -> None:
        number = max(int(self.now) - 1, 0)
        self._second()
        self.seconds[number].waiting = self.waiting()

    def waiting(self) -> int:
        """Entries of the queue that no worker has."""
        return sum(len(shard.entries) for shard in self._shards)

    # --- senders ----------------------------------------------------------------------------------------------------
    def _arrive(self, end: float) -> None:
        """Poisson: one message, and when the next comes. Thinned, so that the rate may change at any time."""
        self._second().arrived += 1
        self._send(_Message())
        following = self.now
        while following < end:
            fastest = max(self._rate(following), self._rate(following + 1.0), 1e-9)
            following += self._dice.expovariate(fastest)
            if self._dice.random() * fastest <= self._rate(following):
                break
        if following < end:
            self._at(following, self._arrive, end)

    def _send(self, message: _Message) -> None:
        """To an address in turn, and from its load balancer to a replica that it believes to be alive."""
        message.came = self.now
        known = [place for place in self._mx if place.known]
        if not known:
            self._later(message)
            return
        self._turn += 1
        place = known[self._turn % len(known)]
        if not place.up:  # nothing answers there: the sender gives up, and tries the next address
            self._cut(message, self.shape.timeout)
        elif place.inside >= self.shape.sessions or self.waiting() >= self.shape.waiting:
            self._later(message)  # 421 or 452
        else:
            place.inside += 1
            message.place, message.life = place, place.life
            place.free = max(self.now, place.free) + self.costs.mx
            self._at(place.free, self._received, message)

    def _later(self, message: _Message) -> None:
        self._second().refused += 1
        self.outside += 1
        self._at(self.now + self.shape.again * self._dice.uniform(0.5, 1.5), self._retry, message)

    def _retry(self, message: _Message) -> None:
        self.outside -= 1
        self._send(message)

    # --- mx and the queue ---------------------------------------------------------------------------------------------
    def _received(self, message: _Message) -> None:
        """The dot has come: into a shard."""
        place = message.place
        assert place is not None
        if place.life != message.life:  # the node has lost power meanwhile
            self._cut(message, 1.0)
            return
        well = [shard for shard in self._shards if shard.known]
        if not well:
            place.inside -= 1
            self._later(message)  # 451
            return
        shard = well[self._turn % len(well)]
        if shard.up:
            shard.arriving.append(message)
            self._flush(shard)
        else:  # until the call has timed out, and then another one
            self._at(self.now + self.shape.timeout, self._missed, message, shard)

    def _missed(self, message: _Message, shard: _Shard) -> None:
        shard.known = shard.up
        self._received(message)

    def _cut(self, message: _Message, seconds: float) -> None:
        """No answer came: the sender sends again."""
        self._second().cut += 1
        self._at(self.now + seconds, self._send, message)

    def _flush(self, shard: _Shard) -> None:
        """One call with what has arrived, if not two are under way."""
        if shard.inside >= IN_FLIGHT or not shard.arriving or not shard.up:
            return
        batch, shard.arriving = shard.arriving[: self.shape.put], shard.arriving[self.shape.put :]
        shard.inside += 1
        shard.free = max(self.now, shard.free) + self.costs.sync + len(batch) * self.costs.queue
        self._at(shard.free, self._durable, shard, batch, shard.life)

    def _durable(self, shard: _Shard, batch: list[_Message], life: int) -> None:
        """250 for each of them."""
        if shard.life != life:
            for message in batch:
                self._cut(message, self.shape.timeout)
            return
        shard.inside -= 1
        second = self._second()
        second.accepted += len(batch)
        for message in batch:
            message.accepted = self.now
            second.answers.append(self.now - message.came)
            if message.place is not None and message.place.life == message.life:
                message.place.inside -= 1
        shard.entries.extend(batch)
        self._flush(shard)
        for worker in self._workers:
            self._take(worker)

    # --- workers and the database ----------------------------------------------------------------------------------
    def _take(self, worker: _Place) -> None:
        """A batch, if not two are under way: parsed when the worker's core is free, then committed."""
        if worker.inside >= IN_FLIGHT or not worker.up or not self._database:
            return
        fullest = max((s for s in self._shards if s.up), key=lambda shard: len(shard.entries), default=None)
        if fullest is None or not fullest.entries:
            return
        entries = fullest.entries
        batch = [entries.popleft() for _ in range(min(self.shape.batch, len(entries)))]
        worker.inside += 1
        worker.free = max(self.now, worker.free) + len(batch) * self.costs.inbound
        self._at(worker.free, self._parsed, worker, batch, worker.life, fullest)

    def _parsed(self, worker: _Place, batch: list[_Message], life: int, shard: _Shard) -> None:
        if worker.life != life:
            self._leased(batch, shard)
            return
        if not self._database:  # the same batch is tried until it answers
            self._at(self.now + 1.0, self._parsed, worker, batch, life, shard)
            return
        core = min(range(len(self._cores)), key=self._cores.__getitem__)
        done = max(self.now, self._cores[core]) + len(batch) * self.costs.database
        self._cores[core] = done
        self._at(done + self.costs.sync, self._filed, worker, batch, life)

    def _leased(self, batch: list[_Message], shard: _Shard) -> None:
        """A worker is gone; others get its entries when the lease has ended."""
        self._at(self.now + self.shape.lease, self._returned, batch, shard)

    def _returned(self, batch: list[_Message], shard: _Shard) -> None:
        shard.entries.extend(batch)
        self._wake()

    def _filed(self, worker: _Place, batch: Sequence[_Message], life: int) -> None:
        second = self._second()
        second.filed += len(batch)
        second.readable.extend(self.now - message.accepted for message in batch)
        if worker.life == life:
            worker.inside -= 1
            self._take(worker)

    # --- trouble ----------------------------------------------------------------------------------------------------
    def lose(self, node: int, at: float, back: float) -> None:
        """A node loses power at a time, and is back at another."""
        self._at(at, self._lost, node)
        self._at(at + self.shape.left_out, self._left_out, node)
        self._at(at + self.shape.replaced, self._replaced, node)
        self._at(back, self._back, node)

    def _lost(self, node: int) -> None:
        for place in [*self._mx, *self._shards, *self._workers]:
            if place.node == node:
                place.up = False
                place.life += 1
                place.inside = 0
        for shard in self._shards:
            if shard.node == node and shard.arriving:
                for message in shard.arriving:
                    self._cut(message, self.shape.timeout)
                shard.arriving = []
        self._database = self._database and node != self.shape.database_node

    def _left_out(self, node: int) -> None:
        for place in self._mx:
            place.known = place.known and place.node != node

    def _replaced(self, node: int) -> None:
        """What has no data runs on the nodes that are left."""
        others = [number for number in range(self.shape.nodes) if number != node]
        for place in [*self._mx, *self._workers]:
            if not place.up and place.node == node:
                place.node, place.up, place.known, place.free = self._dice.choice(others), True, True, self.now
        self._wake()

    def _back(self, node: int) -> None:
        """The data of the node is there again, and what waited in it."""
        for shard in self._shards:
            if shard.node == node:
                shard.up = shard.known = True
                shard.free = self.now
        self._database = True
        self._wake()

    def _wake(self) -> None:
        for worker in self._workers:
            for _ in range(IN_FLIGHT):
                self._take(worker)
