#!/usr/bin/env python3
"""mailfarm beside what else there is, in one interleaved run on the same two cores."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import cores
import report
from children import end_on_sigterm
from measuring import measure
from peers.base import ADDRESSES, Missing, Peer
from peers.cluster import House, MailfarmCluster
from peers.queue_design import QueueDesign
from peers.smtp_sink import SmtpSink
from stand import Stand


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="4000")
    given = parser.parse_args(argv)
    end_on_sigterm()
    every = cores.allowed()
    ours, rest = every[:2], every[2:] or every
    cores.pin(ours)
    options = ["--sessions", "50", "--size", given.size, "--one-each"]
    options += [word for address in ADDRESSES for word in ("--to", address)]
    runs: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        stand = stack.enter_context(Stand())
        house = stack.enter_context(House(stand, rest))
        (inbound,) = house.cluster.start("inbound")
        peers: list[Peer] = []
        clusters = [MailfarmCluster(house, inbound, proxied) for proxied in (True, False)]
        wanted: tuple[Peer, ...] = (SmtpSink(), *clusters, QueueDesign(stand, rest))
        for peer in wanted:
            try:
                peers.append(stack.enter_context(peer))
            except Missing as why:
                report.tell(f"left out: {peer.name}: {why}")
        for peer in peers:
            measure(peer, options, 0.5)
        for number in range(given.rounds):
            for peer in peers:
                form = measure(peer, options, given.seconds)
                peer.clean()
                runs.setdefault(peer.name, []).append(form)
                report.tell(
                    f"{number + 1}/{given.rounds} {peer.name:36} accepted {form['accepted_per_second']:8,.0f}/s"
                    f"  readable {form['readable_per_second'] or 0:8,.0f}/s  errors {form['errors_total']}"
                    f"  others {form['others']:.1f}"
                )
    head = ("server", "accepted/s", "readable/s", "p99 ms", "CPU µs in all", "by process", "generator busy")
    rows = []
    for name, found in runs.items():
        middle = {part: statistics.median(one["cpu_us"][part] for one in found) for part in found[0]["cpu_us"]}
        rows.append(
            (
                name,
                statistics.median(one["accepted_per_second"] for one in found),
                statistics.median(one["readable_per_second"] or 0.0 for one in found),
                statistics.median(one["dot_ms"].get("p99", 0.0) for one in found),
                sum(middle.values()),
                ", ".join(f"{part} {value:.0f}" for part, value in middle.items()),
                statistics.median(one["generator_busy"] for one in found),
            )
        )
    print(report.table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
