"""``mailfarm prove``: break a mailfarm under load, and judge from outside whether mail it acknowledged is gone."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from . import faults
from .campaign import Campaign, NoSuchFault, Open, chosen, groups
from .faults import Fault
from .page import page
from .report import Report
from .run import set_up

TARGETS = ("dev", "processes")
KILLS = {"short": 0, "usual": 30, "full": 220}
PATIENCE = 60.0
"""Seconds after the traffic within which all that was acknowledged must be readable, and told."""


class Progress:
    """What happens now: one line that changes on a terminal, else a line each."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()

    def tell(self, line: str) -> None:
        """Show it."""
        stamp = f"{time.monotonic() - self._began:7.1f} s  {line}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{stamp[:width]}", end="", file=sys.stderr, flush=True)
        else:
            print(stamp, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("target", nargs="?", choices=TARGETS, default="processes", help="what is proved (processes)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same sequence of faults (1)")
    parser.add_argument("--faults", nargs="+", metavar="NAME", default=[], help="only these faults or families")
    parser.add_argument("--kills", type=int, metavar="N", help="how many processes are killed, at least (30)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no fault after so many minutes")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--short", action="store_true", help="about three minutes")
    how_long.add_argument("--full", action="store_true", help=f"everything, and {KILLS['full']} kills")
    parser.add_argument(
        "--list", action="store_true", help="show all faults, and which cannot be injected here and why"
    )
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write report.json and report.html there")
    parser.add_argument("--require-all", action="store_true", help="a fault that cannot be injected here is a failure")
    parser.add_argument("--program", type=shlex.split, metavar="CMD", default=[], help="what starts mailfarm")
    parser.add_argument("--keep", action="store_true", help="keep the ledger, logs and what consumers saw")


def run(args: argparse.Namespace) -> int:
    """Prove. Exit code 0 proved, 1 not, 2 wrong usage, 130 interrupted."""
    try:
        wanted = [fault for fault in chosen(faults.every(), args.faults) if fault.short or not args.short]
    except NoSuchFault as error:
        print(f"mailfarm prove: {error}", file=sys.stderr)
        return 2
    if args.list:
        return _list(wanted, args.target)
    _spread_kills(wanted, args)
    folder = Path(tempfile.mkdtemp(prefix="mailfarm-prove-"))
    progress = Progress()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    opener: Open = lambda place, options: set_up(args.target, place, options)  # noqa: E731
    campaign = Campaign(args.target, opener, folder, seed=args.seed, patience=PATIENCE, tell=progress.tell)
    report = campaign.report
    report.require_all = args.require_all
    can = []
    for fault in wanted:
        if why := fault.missing(args.target):
            if args.target in fault.targets:
                report.not_run(fault, why)
        else:
            can.append(fault)
    try:
        campaign.run(groups(can, args.seed, args.program), time.monotonic() + args.minutes * 60 if args.minutes else 0)
    except KeyboardInterrupt:  # the second one: nothing is judged any more
        report.interrupted = True
    progress.end()
    print(report.text())
    if args.report:
        write(report, args.report)
        print(f"written: {args.report / 'report.html'}, {args.report / 'report.json'}")
    if args.keep or not report.proved:
        print(f"ledger, logs and what consumers saw: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 130 if report.interrupted else 0 if report.proved else 1


def write(report: Report, folder: Path) -> None:
    """``report.json`` and ``report.html``. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.form(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "report.html").write_text(page(report), "utf-8")


def _spread_kills(wanted: list[Fault], args: argparse.Namespace) -> None:
    """Let the faults that kill a process share the number of kills."""
    kills = [fault for fault in wanted if fault.family == "kills" and not fault.missing(args.target)]
    number = (
        args.kills if args.kills is not None else KILLS["full" if args.full else "short" if args.short else "usual"]
    )
    for fault in kills:
        fault.times = max(-(-number // len(kills)), 1)


def _list(wanted: list[Fault], target: str) -> int:
    width = max(len(fault.name) for fault in wanted)
    family = ""
    for fault in wanted:
        if fault.family != family:
            family = fault.family
            print(f"{family}:")
        why = fault.missing(target)
        control = " (a control: it must lose)" if fault.control else ""
        print(f"  {fault.name.ljust(width)}  {fault.says}{control}" + (f"; not here: {why}" if why else ""))
    return 0
