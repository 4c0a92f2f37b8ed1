#!/usr/bin/env python3
"""What idle sessions cost one mx process: memory for each, and what others' mail hears of them.

    bench/idle.py [--quick] [--connections 20000]

``mailfarm mx`` on Redis that syncs each write and on Postgres, behind PROXY version 2. Mail is sent at 200 a second
over 50 connections, first alone; then so many others connect, from several loopback addresses and each with another
client address in its header, say EHLO and nothing more; then mail is sent as before while they are held.
``MiB per 1,000`` is the growth of the process' resident memory since just before they came, over their number; the
kernel's share is not in it. ``CPU, cores`` is what the process uses meanwhile, ``alone`` while no mail comes. The
latency is from the dot to the 250.

A process may hold no more connections than it may open files (``ulimit -Hn``). Root raises that for mx; where it stays
less, fewer are held.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import chart
import report
from children import ROOT, end_on_sigterm, tree_cpu
from own_cluster import own_cluster
from smtp_dialog import proxy_header

from mailfarm.sdk import Farm

sys.path.insert(0, str(ROOT / "tests"))

from running import Service

_LOAD = str(Path(__file__).resolve().parent / "load.py")
_HOLDERS = 4
_AT_ONCE = 200
_FILES = 100  # the process' other open files, and mail's connections
HEAD = (
    "sessions held", "MiB", "MiB per 1,000", "connects/s", "dot→250 p50 ms", "p95", "p99", "CPU, cores", "alone",
    "errors", report.OTHERS,
)  # fmt: skip


def hold(port: int, number: int, count: int) -> None:
    """Open so many sessions as the ``number``-th holder, say so, and keep them until standard input ends."""
    held: list[socket.socket] = []
    while len(held) < count:
        new: list[socket.socket] = []
        for _ in range(min(_AT_ONCE, count - len(held))):
            place = len(held) + len(new)
            each = socket.create_connection(("127.0.0.1", port), 30, (f"127.0.{number + 1}.{place % 8 + 1}", 0))
            client = f"198.18.{number * 8 + place // 2500}.{place % 250 + 1}"
            each.sendall(proxy_header(client, 1024 + place, ("127.0.0.1", port)))
            new.append(each)
        for words in (b"", b"EHLO idle.example\r\n"):
            for each in new:
                if words:
                    each.sendall(words)
            for each in new:
                _whole_reply(each)
        held += new
    print(len(held), flush=True)
    sys.stdin.read()
    lost = sum(not _alive(each) for each in held)
    print(lost, flush=True)


def _whole_reply(sock: socket.socket) -> None:
    said = b""
    while not (said.endswith(b"\r\n") and said.rstrip().rpartition(b"\r\n")[2][3:4] == b" "):
        piece = sock.recv(4096)
        if not piece:
            raise SystemExit(f"a session was closed: {said!r}")
        said += piece
    if not said.startswith(b"2"):
        raise SystemExit(f"a session was refused: {said!r}")


def _alive(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        sock.sendall(b"NOOP\r\n")
        return sock.recv(100).startswith(b"250 ")
    except OSError:
        return False


def send(mx: Service, to: str, seconds: float) -> dict[str, Any]:
    """What the generator says of mail at 200 a second, and the cores mx used meanwhile."""
    command = [sys.executable, _LOAD, f"127.0.0.1:{mx.port('mx')}", "--seconds", str(seconds), "--rate", "200"]
    command += ["--sessions", "50", "--proxy-source", "192.0.2.7", "--to", to]
    began, cpu = time.monotonic(), tree_cpu(mx.process.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the generator failed: {done.stderr[-2000:]}")
    form: dict[str, Any] = json.loads(done.stdout)
    for error, times in form["errors"].items():
        report.tell(f"  {times} × {error}")
    return form | {"cores": (tree_cpu(mx.process.pid) - cpu) / (time.monotonic() - began)}


def alone(mx: Service, seconds: float) -> float:
    """The cores mx uses while nobody says anything."""
    cpu = tree_cpu(mx.process.pid)
    time.sleep(seconds)
    return (tree_cpu(mx.process.pid) - cpu) / seconds


def row(held: int, grown: int, rate: float | None, form: dict[str, Any], rest: float, others: float) -> list[Any]:
    """A line of the table."""
    mib = grown / 1024 / 1024
    dot = [form["dot_ms"].get(each) for each in ("p50", "p95", "p99")]
    each = mib / held * 1000 if held else None
    return [held, mib if held else None, each, rate, *dot, form["cores"], rest, form["errors_total"], others]


def measure(mx: Service, to: str, steps: Sequence[int], seconds: float) -> list[list[Any]]:
    """Mail alone, then with so many sessions held, step by step."""
    send(mx, to, 2.0)  # connections, caches
    others = report.Others()
    rows = [row(0, 0, None, send(mx, to, seconds), alone(mx, 2.0), others.cores())]
    before, held = mx.rss(), 0
    holders: list[subprocess.Popen[str]] = []
    try:
        for step in steps:
            others, began = report.Others(), time.monotonic()
            new: list[subprocess.Popen[str]] = []
            for _ in range(_HOLDERS):
                number = len(holders) + len(new)
                command = [
                    sys.executable,
                    __file__,
                    "--hold",
                    str(mx.port("mx")),
                    str(number),
                    str((step - held) // _HOLDERS),
                ]
                new.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            holders += new
            for each in new:
                assert each.stdout is not None
                if not each.stdout.readline():
                    raise SystemExit("a holder did not get its sessions")
            rate = (step - held) / (time.monotonic() - began)
            held = step
            grown = mx.rss() - before
            report.tell(f"{held:6,} sessions held: {grown / held / 1024:.1f} KiB each")
            rest = alone(mx, 2.0)
            rows.append(row(held, grown, rate, send(mx, to, seconds), rest, others.cores()))
        for each in holders:
            assert each.stdin is not None
            assert each.stdout is not None
            each.stdin.close()
            lost = each.stdout.readline().strip()
            if lost != "0":
                raise SystemExit(f"{lost or 'all'} sessions of a holder were lost meanwhile")
    finally:
        for each in holders:
            each.kill()
            each.wait()
    return rows


def open_files(wanted: int) -> int:
    """Let the processes started from here open so many files, if they may not yet; how many they may."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < wanted:
        with suppress(ValueError, OSError):  # who is not root may not, and nobody past fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--hold"]:
        hold(*map(int, words[1:4]))
        return 0
    parser = report.options(__doc__)
    parser.add_argument("--connections", type=int, default=20_000, help="sessions to hold (quick: a tenth)")
    given = parser.parse_args(words)
    end_on_sigterm()
    facts = report.machine()
    wanted = given.connections // (10 if given.quick else 1)
    files = open_files(wanted + _FILES)
    count = min(wanted, files - _FILES) // _HOLDERS * _HOLDERS
    if count < wanted:
        report.tell(f"a process may open {files} files here: {count:,} sessions instead of {wanted:,}")
    with own_cluster("idle") as own:
        cluster = own.services
        (api,) = cluster.start("api")
        with Farm(api.url, cluster.token) as farm:
            to = farm.create_mailbox().address
        api.stop()
        (mx,) = cluster.start(
            "mx",
            MAILFARM_LOG_LEVEL="warn",
            MAILFARM_MX_PROXY_FROM="127.0.0.0/8",
            MAILFARM_MX_MAX_CONNECTIONS=str(count + 100),
        )
        rows = measure(mx, to, [count // 8 * 4, count], 3.0 if given.quick else 10.0)
    costs = [(f"{each[0]:,} sessions", each[2]) for each in rows if each[2]]
    report.save_rows(
        "idle",
        given.quick,
        facts,
        HEAD,
        rows,
        chart.bars("Idle sessions behind PROXY in one mx", "MiB per 1,000", costs),
    )
    return 1 if any(each[HEAD.index("errors")] for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
