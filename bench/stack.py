#!/usr/bin/env python3
"""The deployed stack through its load balancer: mail a second accepted and filed, into 1 and 1,000 mailboxes.

    bench/stack.py [--quick]          as root: makes a Swarm of three machines of its own (tests/stack/lab.py)

The stack is what ``stack/deploy`` makes of ``stack/mailfarm.yml``: two replicas of each service, two shards of the
queue, Postgres, and Traefik on each machine; only the limits of a client are lifted. The generator (``load.py``) is a
client outside the Swarm and sends to port 25 of machine 1. All of it shares this machine's cores: three engines, their
overlay networks, eighteen containers and the generator. So the numbers say what one small machine does with all of it
at once, and what each way costs beside the other; they are not what three machines do.

``accepted`` is messages a second answered 250, each synced by a shard of the queue before. ``readable`` is messages a
second until the API says that all of them are in their mailboxes. ``paced`` is 50 a second, whatever the server does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chart
import report
from children import end_on_sigterm

sys.path += [str(report.RESULTS.parents[1] / "tests" / "stack"), str(report.RESULTS.parents[1] / "tests")]

from engine import LabError
from images import build
from lab import LOCK, Lab, turn
from swarm_deployment import HOST, MX, Deployment

from mailfarm.prove.follower import resolved
from mailfarm.sdk import Farm, FarmError

_LOAD = Path(__file__).resolve().parent / "load.py"
_PATIENCE = 180.0
"""Seconds until all that was accepted must be readable."""
_LIMITS = "[client]\nconnections_per_minute = 0\nsessions = 0\nfailed_auth = 0\nfailed_auth_of_a_user = 0\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A way of sending, into so many mailboxes."""

    title: str
    mailboxes: int
    options: tuple[str, ...]


_KEPT = ("--sessions", "50", "--pipelining")
_MIXED = ("--sessions", "20", "--pipelining", "--size", "mixed")
CASES = (
    Case("4 KB, kept connections, 1 mailbox", 1, _KEPT),
    Case("4 KB, kept connections, 1,000 mailboxes", 1000, _KEPT),
    Case("4 KB, a connection each, 1,000 mailboxes", 1000, ("--new", "--sessions", "50")),
    Case("2 to 300 KB, kept connections, 1,000 mailboxes", 1000, _MIXED),
    Case("4 KB, 50 a second paced, 1,000 mailboxes", 1000, ("--sessions", "50", "--rate", "50")),
)
HEAD = ("case", "accepted/s", "readable/s", "dot→250 p50 ms", "p95", "p99", "errors")


def measure(stack: Deployment, farm: Farm, case: Case, addresses: Sequence[str], seconds: float) -> dict[str, Any]:
    """Send for so long, and wait until all of it is readable."""
    before = stored(farm, time.monotonic() + _PATIENCE)
    to = [word for address in addresses[: case.mailboxes] for word in ("--to", address)]
    command = [sys.executable, str(_LOAD), f"{stack.addresses[0]}:{MX}", "--seconds", str(seconds), "--one-each"]
    command += [*case.options, *to]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the generator failed: {done.stderr[-2000:]}")
    form: dict[str, Any] = json.loads(done.stdout)
    for error, times in form["errors"].items():
        _tell(f"  {times} × {error}")
    deadline = time.monotonic() + _PATIENCE
    while (readable := stored(farm, deadline) - before) < form["messages"]:
        if time.monotonic() > deadline:
            raise SystemExit(
                f"{form['messages']} were accepted, and {readable} are readable {_PATIENCE:g} seconds later"
            )
        time.sleep(0.2)
    form["readable_per_second"] = form["messages"] / (time.monotonic() - form["began"])
    return form


def stored(farm: Farm, deadline: float) -> int:
    """Messages in all mailboxes. Raises FarmError: the API did not answer until ``deadline`` (monotonic)."""
    while True:
        try:
            return sum(inbox.state.messages for inbox in farm.mailboxes())
        except FarmError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)  # it has much to do


def deployed(kept: ExitStack, folder: Path) -> Deployment:
    """A stack of our own, gone at the end."""
    images = build(_tell)
    kept.enter_context(turn(LOCK, _tell))
    lab = kept.enter_context(Lab(disk=images, tell=_tell))
    stack = Deployment(lab, folder, _tell)
    stack.prepare()
    limits = folder / "limits.toml"
    limits.write_text(_LIMITS)
    stack.deploy(MAILFARM_LIMITS_FILE=str(limits))
    os.environ["SSL_CERT_FILE"] = str(stack.authority)
    kept.enter_context(resolved(HOST, stack.addresses))
    kept.enter_context(lab.near.there())
    return stack


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three seconds of each case, once")
    parser.add_argument("--turns", type=int, default=0, help="how often each is measured (3; quick: 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="of load in each turn (10; quick: 3)")
    given = parser.parse_args(argv)
    turns, seconds = given.turns or (1 if given.quick else 3), given.seconds or (3.0 if given.quick else 10.0)
    end_on_sigterm()
    facts = report.machine()
    runs: dict[str, list[dict[str, Any]]] = {case.title: [] for case in CASES}
    with ExitStack() as kept, tempfile.TemporaryDirectory() as folder:
        try:
            stack = deployed(kept, Path(folder))
        except LabError as error:
            raise SystemExit(str(error)) from error
        farm = kept.enter_context(Farm(stack.url, stack.token, timeout=60))
        _tell("it runs; making 1,000 mailboxes")
        addresses = [farm.create_mailbox().address for _ in range(1000)]
        for turn_ in range(turns):
            for case in CASES:
                _tell(f"{turn_ + 1}/{turns} {case.title}: {seconds:g} s of load …")
                form = measure(stack, farm, case, addresses, seconds)
                runs[case.title].append(form)
                _tell(
                    f"{turn_ + 1}/{turns} {case.title:48} {form['messages_per_second']:8,.0f} accepted/s "
                    f"{form['readable_per_second']:8,.0f} readable/s   errors {form['errors_total']}"
                )
    results = {title: summary(found) for title, found in runs.items()}
    rows = [(title, *one.values()) for title, one in results.items()]
    text = f"{report.about(facts)}\n\n{report.table(HEAD, rows)}"
    accepted = [(title, one["accepted_per_second"]) for title, one in results.items()]
    picture = chart.bars("Mail accepted through Traefik", "a second", accepted)
    report.save("stack", given.quick, {"machine": facts, "results": results, "runs": runs}, text, picture)
    print(text)
    return 1 if any(one["errors"] for one in results.values()) else 0


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a case's turns."""
    return {
        "accepted_per_second": report.median([run["messages_per_second"] for run in runs]),
        "readable_per_second": report.median([run["readable_per_second"] for run in runs]),
        **{f"dot_ms_{p}": report.median([run["dot_ms"].get(p, 0.0) for run in runs]) for p in ("p50", "p95", "p99")},
        "errors": sum(run["errors_total"] for run in runs),
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
