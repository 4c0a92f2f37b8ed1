"""The command line: ``mailfarm <command>``.

A service's word starts that service, ``dev`` starts all of them in one process, ``schema`` and ``health`` are for who
operates a cluster, ``prove`` breaks one to see that it loses nothing, and the client commands (send, wait, list, show)
talk to one that runs. Exit codes: 0 done, 1 failed or refused, 2 wrong usage or wrong settings, 3 cannot
connect, 4 a wait timed out.

Only what a command needs is imported: a client command loads no server.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from textwrap import wrap

from . import __version__
from .config import ALL, Settings, load
from .errors import ConfigurationError

SERVICES = ALL
TAB = "    "
MOST_LISTED = 1_000_000
"""Entries of the queue that are listed at most."""

CLIENT_SETTINGS = (
    ("MAILFARM_URL=http://127.0.0.1:8025", "the mailfarm to talk to"),
    ("MAILFARM_SMTP=", "where send sends to; empty: where MAILFARM_URL says it captures"),
    ("MAILFARM_TOKEN=", "the token, where one is asked for; also as MAILFARM_TOKEN_FILE"),
    ("MAILFARM_CA=", "PEM file with the authority of its certificate, where the system does not know it"),
)

DEV = """\
The whole farm in one process, on loopback, with SQLite: take mail on every port, look at it in a browser, wait for
it in a test. Every setting is an environment variable; see: mailfarm help settings
"""


SCHEMA = """\
Bring the schema of the database at MAILFARM_DATABASE_URL up to date, and say what was done. Any number may run at the
same time; services that wait for it go on by themselves, and those of the version before go on working. Exit code 0
when the schema is one this version can work with, 1 when it is not. SQLite needs none of this.
"""

HEALTH = """\
Ask the service on this machine whether it serves, at MAILFARM_STATUS_LISTEN: what a container's health check runs. Exit
code 0 when it does, 1 when it starts, stops or does not answer.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["prove"]:  # it has a parser of its own, which nobody else needs to load
        from .prove.command import main as prove

        return prove(words[1:])
    parser = _parser()
    args = parser.parse_args(words)
    if not hasattr(args, "run"):
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in: mailfarm list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mailfarm", description="A mail platform for those who build and run it.")
    parser.add_argument("--version", action="version", version=f"mailfarm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    dev = commands.add_parser("dev", help="run everything in one process", description=DEV)
    dev.add_argument("--data", metavar="FOLDER", help="where to keep mail (default: $XDG_DATA_HOME/mailfarm)")
    dev.add_argument("--ephemeral", action="store_true", help="keep nothing: mail is gone when this ends")
    dev.add_argument("--json", action="store_true", help="print one JSON line with the addresses, and logs as JSON")
    dev.add_argument("--verbose", action="store_true", help="log every message")
    dev.set_defaults(run=_dev)

    from .sdk.commands import add_parsers  # late: the client loads no server, the server no client

    add_parsers(commands)
    for word in SERVICES:
        service = commands.add_parser(word, help=_one_job(word), description=_docstring(word))
        service.formatter_class = argparse.RawDescriptionHelpFormatter
        service.add_argument("--json", action="store_true", help="say where it listens as one JSON line")
        service.set_defaults(run=_service, word=word)
    schema = commands.add_parser("schema", help="bring the database's schema up to date", description=SCHEMA)
    schema.add_argument("--check", action="store_true", help="change nothing, only say where it stands")
    schema.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="how long to wait for a database that is away (60)"
    )
    schema.set_defaults(run=_schema)
    health = commands.add_parser("health", help="ask whether the service here serves", description=HEALTH)
    health.set_defaults(run=_health)
    queue = commands.add_parser("queue", help="look at what waits to be filed, and at what was set aside")
    queue.description = _queue_manual()
    queue.formatter_class = argparse.RawDescriptionHelpFormatter
    queue.add_argument("--json", action="store_true", help="one JSON object a line")
    queue.add_argument("--data", metavar="FOLDER", help="where mailfarm dev keeps its mail, if the queue is there")
    queue.set_defaults(run=_queue, does="depth")
    does = queue.add_subparsers(metavar="COMMAND")
    listing = does.add_parser("list", help="the oldest entries in a state")
    listing.add_argument("state", nargs="?", choices=("aside", "waiting", "leased"), default="aside")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object a line")
    listing.add_argument("--limit", type=_entries, default=100, metavar="N", help="how many at most (100)")
    listing.set_defaults(does="list")
    showing = does.add_parser("show", help="an entry's mail, byte for byte")
    showing.add_argument("id")
    showing.set_defaults(does="show")
    for verb, about in (("retry", "let them wait again"), ("drop", "forget them and their mail")):
        doing = does.add_parser(verb, help=f"entries that were set aside: {about}")
        doing.add_argument("ids", nargs="+", metavar="id")
        if verb == "drop":
            doing.add_argument("--yes", action="store_true", help="do not ask")
        doing.set_defaults(does=verb)
    commands.add_parser("prove", help="break a mailfarm under load, and judge whether mail is gone", add_help=False)
    helping = commands.add_parser("help", help="explain a service, the settings or how it works")
    helping.add_argument("topic", nargs="?", help="a service, a command, settings, or one of the documents")
    helping.set_defaults(run=_help, parser=parser, commands=commands.choices)
    return parser


def _entries(text: str) -> int:
    """How many entries of the queue to list."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_LISTED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of entries, 1 to {MOST_LISTED}")
    return int(text)


def _settings(services: Sequence[str] | None, overrides: dict[str, str] | None = None) -> Settings | None:
    """The settings of this environment, to run these services (None: none), or None after every mistake was told on
    standard error."""
    environ = dict(os.environ) | (overrides or {})
    try:
        return load(environ, lambda path: Path(path).read_text("utf-8"), services)
    except ConfigurationError as error:
        count = len(error.mistakes)
        print(f"mailfarm: {count} mistake{'s' if count > 1 else ''} in the settings", file=sys.stderr)
        for mistake in error.mistakes:
            print(f"  {mistake}", file=sys.stderr)
        return None


def _dev(args: argparse.Namespace) -> int:
    if args.data and args.ephemeral:
        print("mailfarm dev: --data keeps mail and --ephemeral does not; give one of them", file=sys.stderr)
        return 2
    settings = _settings(ALL, {} if args.json or "MAILFARM_LOG" in os.environ else {"MAILFARM_LOG": "text"})
    if settings is None:
        return 2
    if "MAILFARM_LOG_LEVEL" not in os.environ and not args.verbose and not args.json:
        settings = replace(settings, farm=replace(settings.farm, log_level="warn"))
    folder = None if args.ephemeral else Path(args.data or settings.farm.data or _data_home())
    from .process import run

    code: int = run(settings, folder, ALL, name="dev", announce_json=args.json)
    return code


def _data_home() -> Path:
    """The XDG data directory's mailfarm folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mailfarm"


def _service(args: argparse.Namespace) -> int:
    services = (args.word,)
    settings = _settings(services)
    if settings is None:
        return 2
    from .process import run

    folder = Path(settings.farm.data) if settings.farm.data else None
    code: int = run(settings, folder, services, name=args.word, announce_json=args.json)
    return code


def _schema(args: argparse.Namespace) -> int:
    settings = _settings(None)
    if settings is None:
        return 2
    farm = settings.farm
    if not farm.database_url:
        told = "set MAILFARM_DATABASE_URL; SQLite is brought up to date by whoever opens it"
        print(f"mailfarm schema: {told}", file=sys.stderr)
        return 2
    from .schema_command import check, migrate

    return check(farm) if args.check else migrate(farm, args.wait)


def _queue_manual() -> str:
    source = resources.files("mailfarm") / "queue_command.py"
    return ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""


def _queue(args: argparse.Namespace) -> int:
    settings = _settings(None)
    if settings is None:
        return 2
    from .queue_command import run
    from .sdk.telling import FAILED, standard_output, tell

    try:
        with standard_output():
            return int(run(settings, Path(args.data or settings.farm.data or _data_home()), args))
    except BrokenPipeError:
        raise
    except OSError as error:
        return tell("queue", str(error), FAILED)


def _health(args: argparse.Namespace) -> int:
    from .health import health

    return health()


def _help(args: argparse.Namespace) -> int:
    if args.topic is None:
        args.parser.print_help()
        print(f"\ntopics for mailfarm help: {' '.join(_topics())}")
        return 0
    if args.topic == "settings":
        print(_settings_text())
    elif args.topic in SERVICES:
        print(_docstring(args.topic))
    elif args.topic == "prove":
        from .prove.command import manual

        print(manual())
    elif (document := resources.files("mailfarm") / "docs" / f"{args.topic}.md").is_file():
        print(document.read_text("utf-8"))
    elif args.topic in args.commands:
        args.commands[args.topic].print_help()
    else:
        there = dict.fromkeys([*_topics(), *args.commands])
        print(f"mailfarm help: no topic {args.topic!r}; there are: {' '.join(there)}", file=sys.stderr)
        return 2
    return 0


def _topics() -> list[str]:
    documents = (resources.files("mailfarm") / "docs").iterdir()
    return [
        "settings",
        *SERVICES,
        "prove",
        *sorted(d.name.removesuffix(".md") for d in documents if d.name.endswith(".md")),
    ]


def _settings_text() -> str:
    from .config import variables

    lines = ["Each may also be given as NAME_FILE, a file that holds the value: do so with passwords and tokens."]
    group = ""
    for variable in variables():
        if variable.group != group:
            group = variable.group
            lines += ["", "ALL SERVICES" if group == "farm" else f"{group} - {_one_job(group)}", ""]
        default = variable.default or ("(none)" if not variable.secret else "(none; a secret)")
        lines += [f"{variable.name}={default}", *wrap(variable.help, 110, initial_indent=TAB, subsequent_indent=TAB)]
    lines += ["", "The SDK and the commands send, wait, list and show read:", ""]
    for name, meaning in CLIENT_SETTINGS:
        lines += [name, f"    {meaning}"]
    return "\n".join(lines)


def _docstring(word: str) -> str:
    """A service's manual page, without importing it."""
    services = resources.files("mailfarm") / "services"
    source = services / f"{word}.py"
    if not source.is_file():
        source = services / word / "__init__.py"
    return ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""


def _one_job(word: str) -> str:
    """The line under NAME in a service's manual page, after the dash."""
    lines = [line.strip() for line in _docstring(word).splitlines()]
    name = next((line for line in lines if line.startswith(f"{word} ")), word)
    return name.removeprefix(word).lstrip(" -—:")
