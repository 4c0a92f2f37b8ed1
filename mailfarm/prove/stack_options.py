"""What ``mailfarm prove stack`` is told, and the question whether it may: it breaks things that others may rely on."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from mailfarm.sdk import FarmError, asking
from mailfarm.sdk.sending import Unusable

from .docker import DockerError, Engine, Swarm
from .faults import Tell
from .follower import resolved
from .stack import Stack

LISTENING = 10.0
"""Seconds for which we look whether mail of others comes in."""

MANUAL = """\
stack: one that runs on a Docker Swarm. MAILFARM_URL, MAILFARM_TOKEN or MAILFARM_TOKEN_FILE, and MAILFARM_CA say where
its API is. The docker command must lead to a manager (DOCKER_HOST, DOCKER_CONTEXT). Containers on another node are
reached if there is a docker context with that node's name, or by --engine; nothing is done to those on other nodes. It
breaks what runs there, so it asks first, and refuses while mail of others comes in.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the target ``stack``."""
    options = parser.add_argument_group("the target stack")
    options.add_argument("--stack", metavar="NAME", default="mailfarm", help="what it was deployed as (mailfarm)")
    options.add_argument(
        "--address", metavar="ADDRESS", action="append", default=[],
        help="an address of the load balancer, once each (those that the host of MAILFARM_URL leads to)",
    )  # fmt: skip
    options.add_argument(
        "--engine", metavar="NODE=HOST", action="append", default=[],
        help="how docker reaches a node's engine, as in node2=ssh://root@node2",
    )  # fmt: skip
    options.add_argument("--power-off", metavar="COMMAND", default="", help="turns off the node whose name follows it")
    options.add_argument("--power-on", metavar="COMMAND", default="", help="turns it on again")
    options.add_argument(
        "--source", metavar="ADDRESS", action="append", default=[],
        help="an address of this machine to send from, once each: limits are for each client address",
    )  # fmt: skip
    options.add_argument("--yes", action="store_true", help="do not ask")
    options.add_argument("--although-mail-flows", action="store_true", help="also while mail of others comes in")


def open_stack(args: argparse.Namespace, folder: Path) -> Stack:
    """The stack that the options and the environment name. Raises Unusable, with what to change."""
    url, token, cafile = _farm()
    host = urlsplit(url).hostname or ""
    power = [shlex.split(text) for text in (args.power_off, args.power_on)]
    if bool(power[0]) != bool(power[1]):
        raise Unusable("--power-off and --power-on belong together")
    try:
        swarm = Swarm(Engine(), {name: Engine(("-H", where)) for name, where in map(_engine, args.engine)})
        there = swarm.ask("stack", "ls", "--format", "{{.Name}}").split()
    except DockerError as error:
        hint = "the docker command must lead to a manager of the Swarm: DOCKER_HOST, DOCKER_CONTEXT"
        raise Unusable(f"{error}\n{hint}") from None
    if args.stack not in there:
        raise Unusable(f"no stack {args.stack} is on this Swarm, but {', '.join(there) or 'none'}; see --stack")
    return Stack(
        folder,
        swarm,
        url=url,
        token=token,
        cafile=cafile,
        addresses=args.address or _addresses(host),
        sources=args.source,
        stack=args.stack,
        power_off=power[0],
        power_on=power[1],
    )


def _farm() -> tuple[str, str, str]:
    """URL, token and authority, as the other commands know them."""
    url = os.environ.get("MAILFARM_URL", "").rstrip("/")
    if not url:
        raise Unusable("set MAILFARM_URL to the address of the stack's API, as in https://mail.example.org")
    token = os.environ.get("MAILFARM_TOKEN", "")
    if path := os.environ.get("MAILFARM_TOKEN_FILE"):
        try:
            token = Path(path).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"MAILFARM_TOKEN_FILE: {error}") from None
    if not token:
        raise Unusable("set MAILFARM_TOKEN_FILE to a file with a token of the stack, as in stack/private/first_token")
    asking.open_farm().close()  # says what is wrong with any of them
    return url, token, asking.authorities() or ""


def _engine(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (name and equals and where):
        raise Unusable(f"--engine {text}: write NODE=HOST, as in node2=ssh://root@node2")
    return name, where


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, 25, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unusable(f"{host} leads nowhere from here ({error}); name its nodes with --address") from None
    return sorted({str(each[4][0]) for each in found})


def consent(stack: Stack, args: argparse.Namespace, tell: Tell, ask: Callable[[str], str] = input) -> None:
    """Say what will be done, and return if it may be. Raises Unusable."""
    swarm = stack.swarm
    tell(f"This breaks things in the stack {stack.stack} at {stack.url}: it kills and stalls containers of every")
    tell(f"service, updates and scales services, cuts networks, drains nodes{_powered(stack)}. Clients are cut off,")
    tell("told to try again, and kept waiting. It makes mailboxes and deletes them; if mail is lost they stay a day.")
    tell(f"Nodes whose containers are reached: {', '.join(sorted(swarm.engines))}.")
    for node in swarm.unreached:
        tell(f"{node}: not reached, nothing is done there (--engine {node}=ssh://…, or a docker context {node})")
    if not args.yes and not sys.stdin.isatty():
        raise Unusable("nobody is here to be asked: --yes answers for you")
    if not args.although_mail_flows and (came := _came(stack)) > 0:
        raise Unusable(
            f"{came:.0f} messages came in within {LISTENING:.0f} s: somebody uses this stack. "
            "With --although-mail-flows it is broken all the same"
        )
    name = urlsplit(stack.url).hostname or ""
    try:
        with resolved(name, stack.addresses), asking.open_farm(30) as farm:
            farm.mailboxes()
    except FarmError as error:
        raise Unusable(f"the API of the stack cannot be used: {error}") from None
    if not args.yes and ask(f"Type {name} to go on: ").strip() != name:
        raise Unusable("nothing was done")


def _came(stack: Stack) -> float:
    """How many messages others send while we look. Raises Unusable."""
    try:
        before = stack.accepted()
        time.sleep(LISTENING)
        return stack.accepted() - before
    except DockerError as error:
        raise Unusable(f"cannot see whether mail of others comes in: {error}") from None


def _powered(stack: Stack) -> str:
    return " and turns them off" if stack.has_power_switch() else ""
