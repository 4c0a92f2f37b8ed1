"""``mailfarm prove``: break a mailfarm under load, and judge from outside whether mail it acknowledged is gone."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mailfarm.sdk.sending import Unusable

from . import faults, servers, stack_options
from .campaign import Campaign, NoSuchFault, Open, chosen, groups
from .faults import Fault
from .page import page
from .progress import Progress
from .report import Report
from .run import set_up

TARGETS = ("dev", "processes", "stack")
KILLS = {"short": 0, "usual": 30, "full": 220}
MANUAL = f"""\
Break a mailfarm under load, one fault after the other, and judge from outside whether mail it acknowledged is gone.
Exit code 0 when nothing was, 1 when it is not proved, 2 for wrong usage. See: mailfarm help proving

dev:   one mailfarm dev, started for this and gone after it.
processes: each service a process of its own, with Redis and PostgreSQL, on this machine and for this only.
{stack_options.MANUAL}"""
MOST_KILLS = 10_000
PATIENCE = 75.0
"""Longer than a worker's lease, of 60 s: what was taken by one that is gone comes after that."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mailfarm prove", description=MANUAL, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", choices=TARGETS, default="processes", help="what is proved (processes)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same sequence of faults (1)")
    parser.add_argument("--faults", nargs="+", metavar="NAME", default=[], help="only these faults or families")
    parser.add_argument("--kills", type=int, metavar="N", help=f"how many processes are killed ({KILLS['usual']})")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="S",
        help=f"seconds at the end in which all that was acknowledged must be readable and told ({PATIENCE:g})",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="prove so many targets at a time (1)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no fault after so many minutes")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--short", action="store_true", help="about three minutes")
    how_long.add_argument("--full", action="store_true", help=f"everything, and {KILLS['full']} kills")
    parser.add_argument("--list", action="store_true", help="show all faults, and why one cannot be injected here")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write report.json and report.html there")
    parser.add_argument("--require-all", action="store_true", help="not proved if a fault cannot be injected here")
    parser.add_argument("--program", type=shlex.split, metavar="CMD", default=[], help="what starts mailfarm")
    parser.add_argument("--keep", action="store_true", help="keep the ledger, logs and what consumers saw")
    stack_options.add_options(parser)
    return parser


def manual() -> str:
    """What ``mailfarm help prove`` shows."""
    return _parser().format_help()


def main(argv: Sequence[str]) -> int:
    """Prove. Exit code 0 proved, 1 not, 2 wrong usage, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        wanted = chosen(faults.every(), args.faults)
        if args.list:
            return _list(wanted, args.target)
        wanted = [fault for fault in wanted if fault.short or not args.short or args.faults]
        _check(wanted, args)
        return _prove(wanted, args)
    except (NoSuchFault, Unusable) as error:
        print(f"mailfarm prove: {error}", file=sys.stderr)
        return 2


def _check(wanted: Sequence[Fault], args: argparse.Namespace) -> None:
    """What would come to nothing, or to light only at the end. Raises Unusable."""
    for name in ("kills", "minutes", "patience", "jobs"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise Unusable(f"--{name} {value:g}: give a number above 0")
    if args.kills is not None and args.kills > MOST_KILLS:
        raise Unusable(f"--kills {args.kills}: at most {MOST_KILLS}")
    if args.target == "stack" and args.jobs > 1:
        raise Unusable(f"--jobs {args.jobs}: there is one stack")
    if not any(args.target in fault.targets for fault in wanted):
        raise Unusable(f"none of these faults is for {args.target}: see mailfarm prove {args.target} --list")
    if args.target == "processes" and (lacks := servers.missing()):
        raise Unusable(f"processes needs what is not on this machine: {', '.join(lacks)}; try mailfarm prove dev")
    if args.report:
        try:
            args.report.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=args.report):
                pass
        except OSError as error:
            raise Unusable(f"--report {args.report}: nothing can be written there: {error.strerror}") from error


def _prove(wanted: Sequence[Fault], args: argparse.Namespace) -> int:
    _measure_out(wanted, args)
    folder = Path(tempfile.mkdtemp(prefix="mailfarm-prove-"))
    progress = Progress()
    opener = _opener(args, folder)
    campaign = Campaign(
        args.target, opener, folder,
        seed=args.seed, patience=args.patience, tell=progress.tell, at=progress.at, jobs=args.jobs,
    )  # fmt: skip
    report = campaign.report
    report.require_all = args.require_all
    can = []
    for fault in wanted:
        why = fault.missing(args.target)
        if not why:
            can.append(fault)
        elif args.target in fault.targets:
            report.not_run(fault, why)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
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


def _interrupt(number: int, frame: object) -> None:
    """In place of Python's own: asyncio.run would put another there, which a send that has just ended swallows."""
    raise KeyboardInterrupt


def _opener(args: argparse.Namespace, folder: Path) -> Open:
    """How targets are made; a stack is there already, and it is asked whether it may be broken."""
    if args.target != "stack":
        return lambda place, options: set_up(args.target, place, options)
    stack_options.consent(stack_options.open_stack(args, folder), args, lambda line: print(line, file=sys.stderr))
    return lambda place, _: stack_options.open_stack(args, place)


def write(report: Report, folder: Path) -> None:
    """``report.json`` and ``report.html``. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.form(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "report.html").write_text(page(report), "utf-8")


def _measure_out(wanted: Sequence[Fault], args: argparse.Namespace) -> None:
    """Let the faults that kill a process share the number of kills, and say how thorough all are to be."""
    kills = [fault for fault in wanted if fault.family == "kills" and not fault.missing(args.target)]
    number = (
        args.kills if args.kills is not None else KILLS["full" if args.full else "short" if args.short else "usual"]
    )
    for fault in wanted:
        fault.thorough = args.full
    for fault in kills:
        fault.times = max(-(-number // (len(kills) * fault.at_once)), 1)


def _list(wanted: Sequence[Fault], target: str) -> int:
    width = max(len(fault.name) for fault in wanted)
    family = ""
    for fault in (each for each in wanted if target in each.targets):
        if fault.family != family:
            family = fault.family
            print(f"{family}:")
        why = fault.missing(target)
        control = " (a control: it must be found out)" if fault.control else ""
        print(f"  {fault.name.ljust(width)}  {fault.says}{control}" + (f"; not here: {why}" if why else ""))
    return 0
