"""From what a message costs in each service to what a number of messages a day needs.

Everything is computed from figures in ``bench/results``; what is assumed (how much more comes at the peak, how full a
core may be, how long mail is kept) is named here and in the table.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import Costs, Shape

PEAK = 3.0
"""The busiest minute, in means of the day."""
FULL = 0.6
"""How much of a core a replica uses at the peak. More, and what waits grows faster than what comes."""
SPARE = 1.5
"""One of three nodes may be lost at the peak."""
OCTETS = 4000
"""The measured message."""
DAYS = 7
"""How long mail is kept."""
CASE, PACED = "4 KB, kept", "4 KB, kept, paced at 100 a second"


class Unmeasured(Exception):
    """A figure is not there: which script makes it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU in µs a message; messages, puts and syncs of the disk a second; octets on disk for one octet of mail."""

    mx: float
    queue: float
    inbound: float
    database: float
    cache: float
    accepted: float
    readable: float
    paced: dict[str, float]
    paced_ms: float
    puts: float
    syncs: float
    stored: float

    def costs(self) -> Costs:
        """For the simulation, in seconds. The cores of a shard and of the database are counted by CPU."""
        return Costs(self.mx / 1e6, self.queue / 1e6, self.inbound / 1e6, self.database / 1e6, 1 / self.syncs)

    def costs_paced(self) -> Costs:
        """The same where each message pays for a call and a commit of its own."""
        mx, queue, inbound, database = (self.paced[name] / 1e6 for name in ("mx", "queue", "inbound", "database"))
        return Costs(mx, queue, inbound, database, 1 / self.syncs)


def measured(results: Path) -> Measured:
    """Read the figures. Raises Unmeasured."""

    def read(name: str) -> dict[str, Any]:
        try:
            form: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        except (OSError, ValueError) as error:
            raise Unmeasured(f"bench/results/{name}.json: {error}; make bench-cluster writes it") from error
        return form

    def row(name: str, **wanted: Any) -> dict[str, Any]:
        for each in read(name)["rows"]:
            if all(each.get(column) == value for column, value in wanted.items()):
                found: dict[str, Any] = each
                return found
        raise Unmeasured(f"bench/results/{name}.json has no row with {wanted}")

    def cpu(found: dict[str, Any]) -> dict[str, float]:
        columns = {"mx": "mx µs", "queue": "queue's Redis µs", "inbound": "inbound µs", "database": "PostgreSQL µs"}
        return {name: float(found[column]) for name, column in columns.items()}

    kept, paced = row("cluster", case=CASE, mailboxes=1000), row("cluster", case=PACED)
    return Measured(
        **cpu(kept),
        cache=float(kept["cache's Redis µs"]),
        accepted=float(kept["accepted/s"]),
        readable=float(kept["readable/s"]),
        paced=cpu(paced),
        paced_ms=float(paced["dot→250 p50 ms"]),
        puts=float(row("queues", queue="Redis", size="4 KB", putters=50, mailboxes=1)["puts/s"]),
        syncs=float(read("cluster")["machine"]["fdatasync_per_second"]),
        stored=float(row("file", store="PostgreSQL + Redis", mail="4 KB", mailboxes=1000)["stored"]),
    )


@dataclass(frozen=True, slots=True)
class Need:
    """What a rate needs: replicas, shards, cores, octets a second."""

    per_day: float
    peak: float
    mx: int
    inbound: int
    shards: int
    database_cores: float
    cores: float
    network: float
    journal: float
    kept: float


def need(per_day: float, figures: Measured) -> Need:
    """For so many messages of 4 KB a day."""
    peak = per_day / 86400 * PEAK

    def replicas(cost: float) -> int:
        return max(2, math.ceil(peak * cost / 1e6 / FULL * SPARE))

    mx, inbound = replicas(figures.mx), replicas(figures.inbound)
    shards = max(2, math.ceil(peak / (figures.puts * FULL)) + 1)
    database = peak * figures.database / 1e6 / FULL
    queue = peak * (figures.queue + figures.cache) / 1e6 / FULL
    # In from the sender, on from the balancer to mx, to a shard, to a worker, to the database.
    network = peak * OCTETS * 5
    journal = peak * OCTETS * (1 + 2 * figures.stored)  # the queue's file; the database's log and its pages
    return Need(
        per_day, peak, mx, inbound, shards, database, mx + inbound + database + queue, network, journal,
        per_day * OCTETS * figures.stored * DAYS,
    )  # fmt: skip


def shape(wanted: Need, nodes: int = 3) -> Shape:
    """The farm that the need describes."""
    cores = max(2, math.ceil(wanted.database_cores))
    return Shape(
        nodes=nodes, mx=wanted.mx, shards=wanted.shards, workers=wanted.inbound, database_cores=cores,
        database_node=nodes - 1,
    )  # fmt: skip
