"""The command line: ``mailfarm <command>``.

A service's word starts that service, ``dev`` starts all of them in one process, and the client commands (send, wait,
list, show) talk to one that runs. Exit codes: 0 done, 1 failed or refused, 2 wrong usage or wrong settings,
3 cannot connect, 4 a wait timed out.

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

from . import __version__
from .config import Settings, load
from .errors import ConfigurationError

SERVICES = ("mx", "submission", "inbound", "sweep", "api", "live")

CLIENT_SETTINGS = (
    ("MAILFARM_URL=http://127.0.0.1:8025", "the mailfarm to talk to"),
    ("MAILFARM_SMTP=", "where send sends to; empty: where MAILFARM_URL says it captures"),
    ("MAILFARM_TOKEN=", "the token, where one is asked for; also as MAILFARM_TOKEN_FILE"),
)

DEV = """\
The whole farm in one process, on loopback, with SQLite: take mail on every port, look at it in a browser, wait for
it in a test. Every setting is an environment variable; see: mailfarm help settings
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
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
        service.set_defaults(run=_service, word=word)
    helping = commands.add_parser("help", help="explain a service, the settings or how it works")
    helping.add_argument("topic", nargs="?", help="a service, settings, or one of the documents")
    helping.set_defaults(run=_help, parser=parser)
    return parser


def _settings(overrides: dict[str, str] | None = None) -> Settings | None:
    """The settings of this environment, or None after every mistake was told on standard error."""
    environ = dict(os.environ) | (overrides or {})
    try:
        return load(environ, lambda path: Path(path).read_text("utf-8"))
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
    settings = _settings({} if args.json or "MAILFARM_LOG" in os.environ else {"MAILFARM_LOG": "text"})
    if settings is None:
        return 2
    if "MAILFARM_LOG_LEVEL" not in os.environ and not args.verbose and not args.json:
        settings = replace(settings, farm=replace(settings.farm, log_level="warn"))
    folder = None if args.ephemeral else Path(args.data or settings.farm.data or _data_home())
    from .dev import run_dev

    code: int = run_dev(settings, folder, announce_json=args.json)
    return code


def _data_home() -> Path:
    """The XDG data directory's mailfarm folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mailfarm"


def _service(args: argparse.Namespace) -> int:
    if _settings() is None:
        return 2
    print(
        f"mailfarm {args.word}: a service by itself needs a queue, a database and a bus that other processes share, "
        "and this version has only those inside one process; run: mailfarm dev",
        file=sys.stderr,
    )
    return 2


def _help(args: argparse.Namespace) -> int:
    if args.topic is None:
        args.parser.print_help()
        print(f"\ntopics for mailfarm help: {' '.join(_topics())}")
        return 0
    if args.topic == "settings":
        print(_settings_text())
    elif args.topic in SERVICES:
        print(_docstring(args.topic))
    elif (document := resources.files("mailfarm") / "docs" / f"{args.topic}.md").is_file():
        print(document.read_text("utf-8"))
    else:
        print(f"mailfarm help: no topic {args.topic!r}; there are: {' '.join(_topics())}", file=sys.stderr)
        return 2
    return 0


def _topics() -> list[str]:
    documents = (resources.files("mailfarm") / "docs").iterdir()
    return ["settings", *SERVICES, *sorted(d.name.removesuffix(".md") for d in documents if d.name.endswith(".md"))]


def _settings_text() -> str:
    from .config import variables

    lines = ["Each may also be given as NAME_FILE, a file that holds the value.", ""]
    for variable in variables():
        default = variable.default or ("(none)" if not variable.secret else "(none; a secret)")
        lines += [f"{variable.name}={default}", f"    {variable.help}"]
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
