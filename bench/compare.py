#!/usr/bin/env python3
"""mailfarm beside what else there is, in one interleaved run on the same two cores. This is ``make bench``.

    .venv/bin/python bench/compare.py [--quick] [--only kept,large] [--peers sink,cluster,queue]

smtp-sink        Postfix's sink in C, a ceiling: it throws mail away
mailfarm edge    our SMTP server with a queue that keeps nothing
mailfarm mx      a listener that syncs each message in Redis; PROXY headers, limits, look-ups and metrics on, or off
mailfarm cluster the same with an inbound that files in Postgres and announces
mailfarm dev     everything in one process on SQLite, synced before 250
queue design     npm's smtp-server, BullMQ, mailparser and pg, on the same Redis and Postgres (bench/node)
MailDev, aiosmtpd, Postfix's own queue

Everything runs at the same time and is measured in turn, round by round; whoever is not measured rests. All of it, the
generator too, shares two cores; only who watches (the subscriber that sees when a message is announced) has others
where there are others. After each measurement what was acknowledged is read back, one by one. A peer that cannot run
here is named with the reason.

The mailfarm that is measured is the one this script belongs to.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import cores
import findings
import latency
import psycopg2
import readme
import report
import rounds
import summary
import targets
import ways
from children import ROOT, end_on_sigterm
from field import PEERS, Field
from generator import Plan
from load import run as generate
from measuring import Wrong
from sink import TrivialSink
from smtp_dialog import Options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report. 1 where something was wrong: an error of a server, or mail that cannot be found."""
    given = _arguments(argv)
    end_on_sigterm()
    os.environ["PYTHONPATH"] = str(ROOT)
    every = cores.allowed()
    if len(every) < 2:
        report.tell("this machine has one core: everything shares it, and no ratio means what it should")
    ours, aside = every[:2], every[2:] or every
    facts = report.machine()
    cores.pin(ours)
    sys.setswitchinterval(0.001)  # threads that watch note times
    try:
        results, wrong = measure(given, facts, every, ours, aside)
    except Wrong as what:
        report.tell(f"wrong: {what}")
        return 1
    except (OSError, psycopg2.Error) as what:  # a server that did not start says why, and what to install
        report.tell(f"it could not be measured: {what}")
        return 1
    except KeyboardInterrupt:
        report.tell("stopped; nothing is kept")
        return 130
    lines = targets.lines(results, report.RESULTS)
    results["targets"] = [one.form() for one in lines]
    kept = given.quick or bool(given.only or given.peers)
    path = report.save("bench", kept, results, findings.markdown(results, lines))
    for name, picture in findings.pictures(results).items():
        (path.parent / f"{name}.svg").write_text(picture)
    print(path.read_text())
    if not kept:
        readme.fill(results)
    report.tell(f"kept in {path.parent}")
    return 1 if wrong else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of it, in three minutes; kept in .make/bench")
    parser.add_argument("--rounds", type=int, default=0, help="how often each is measured (3; quick: 1)")
    parser.add_argument("--only", default="", help="scenarios, parted by commas: " + ways.names())
    parser.add_argument("--peers", default="", help="servers, parted by commas: " + " ".join(PEERS))
    given = parser.parse_args(argv)
    given.rounds = given.rounds or (1 if given.quick else 3)
    try:
        given.chosen, given.extra = ways.chosen(given.quick, given.only)
    except ValueError as what:
        parser.error(str(what))
    given.wanted = set(given.peers.split(",")) if given.peers else set(PEERS)
    if unknown := given.wanted - set(PEERS):
        parser.error(f"no server {', '.join(sorted(unknown))}; there are {' '.join(PEERS)}")
    return given


def measure(
    given: argparse.Namespace, facts: dict[str, Any], every: list[int], ours: list[int], aside: list[int]
) -> tuple[dict[str, Any], bool]:
    """All that was asked for, and whether something was wrong with it."""
    wanted = {key for one in given.chosen for key in one.peers} & given.wanted
    if given.extra:
        wanted |= {"cluster", "queue"} & given.wanted
    report.tell("measuring the generator by itself, then starting " + ", ".join(key for key in PEERS if key in wanted))
    results: dict[str, Any] = {
        "machine": facts, "cores": ours, "rounds": given.rounds, "ceiling": ceiling(), "scenarios": {}, "latency": {},
    }  # fmt: skip
    with Field(wanted, aside) as field:
        results["missing"] = field.missing
        results["names"] = {key: [peer.name, peer.promise] for key, peer in field.peers.items()}
        paced = [key for key in ("cluster", "queue") if key in field.peers and "latency" in given.extra]
        rates = latency.RATES[:1] if given.quick else latency.RATES
        scaled = "scale" in given.extra and "cluster" in field.peers
        steps = sum(sum(key in field.peers for key in one.peers) for one in given.chosen) * given.rounds
        clock = rounds.Clock(steps + len(paced) * len(rates) * given.rounds + scaled * given.rounds * 2)
        warmed: set[str] = set()
        for scenario in given.chosen:
            runs = rounds.run(field, scenario, given.rounds, clock, warmed)
            if problem := field.drained(every):
                raise Wrong(f"mailfarm mx: {problem}")
            results["scenarios"][scenario.name] = {
                "title": scenario.title, "summary": summary.of_scenario(runs), "runs": runs,
            }  # fmt: skip
        if paced:
            results["latency"] = rounds.paced(field, paced, rates, given.rounds, clock, 3.0 if given.quick else 6.0)
        if scaled:
            results["scale"] = rounds.scaled(field, given.rounds, clock, ours, every)
    everyone = [one for found in results["scenarios"].values() for one in found["summary"].values()]
    results["others"] = summary.median([one["others"] for one in everyone]) or 0.0
    return results, any(one["errors"] for one in [*everyone, *results["latency"].values()])


def ceiling() -> dict[str, float]:
    """How fast the generator is where the server does nearly nothing, and what a message on a kept connection costs."""
    ways = {"kept": Options(), "pipelined": Options(pipelining=True), "new": Options(kept=False)}
    found: dict[str, float] = {}
    for name, options in ways.items():
        with TrivialSink() as port:
            done = generate(Plan("127.0.0.1", port, options, seconds=1.0, label="c"))
        found[name] = done.rate
        found.setdefault("us", done.cpu / max(done.messages, 1) * 1e6)
    return found


if __name__ == "__main__":
    sys.exit(main())
