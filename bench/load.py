#!/usr/bin/env python3
"""The load generator: sends mail as fast as Python can, or at a rate, checks every reply and says how long each took.

    bench/load.py 127.0.0.1:1025 --sessions 50 --messages 10000
    bench/load.py 127.0.0.1:1025 --rate 200 --seconds 10          open loop: latency from when each was due
    bench/load.py --ceiling                                       how fast the generator itself is

Prints one JSON object. ``messages`` were answered 250 and all their replies were right (see ``smtp_dialog.py``);
everything else is under ``errors``. Times are milliseconds. ``dot_ms`` is from the last octet of content handed to
the kernel to the 250; ``whole_ms`` from MAIL (or the connection, when each message has its own; or the due time) to
the 250. Exit code 1 if there were errors.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any

from corpus import corpus
from generator import Load, Plan, Result
from smtp_dialog import Options
from swift import Swift

_WORKER = "--worker"


def engine(plan: Plan) -> Load | Swift:
    """What runs a plan: the swift one, unless there is TLS or AUTH in it."""
    plain = plan.options.security == "plain" and not plan.options.auth
    return (Swift if plain else Load)(plan, corpus(plan.size, seed=plan.seed))


def run(plan: Plan, processes: int = 1) -> Result:
    """Run a plan, shared out over several processes if one is not enough."""
    if processes == 1:
        return engine(plan).run()
    running: list[subprocess.Popen[bytes]] = []
    result = Result()
    try:
        for number in range(processes):
            share = replace(
                plan,
                sessions=_share(plan.sessions, processes, number),
                messages=_share(plan.messages, processes, number),
                rate=plan.rate / processes,
                label=f"{plan.label}{number}" if plan.label else "",
            )
            child = subprocess.Popen([sys.executable, __file__, _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            running.append(child)
            _tell(child.stdin, share)
        for child in running:
            _hear(child.stdout)  # connected and ready
        for child in running:
            _tell(child.stdin, None)
        for child in running:
            result.add(_hear(child.stdout))
    finally:
        for child in running:
            child.kill()
            child.communicate()
    return result


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


def _tell(pipe: IO[bytes] | None, value: Plan | Result | None) -> None:
    assert pipe
    pickle.dump(value, pipe)
    pipe.flush()


def _hear(pipe: IO[bytes] | None) -> Any:
    assert pipe
    return pickle.load(pipe)  # from our own child


def _work() -> int:
    """What a child does: hear its plan, say when it is ready, hear the start, tell its result."""
    plan: Plan = _hear(sys.stdin.buffer)

    def start() -> None:
        _tell(sys.stdout.buffer, None)
        _hear(sys.stdin.buffer)

    _tell(sys.stdout.buffer, engine(plan).run(start))
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("server", nargs="?", help="HOST:PORT; left out with --ceiling")
    parser.add_argument(
        "--ceiling", action="store_true", help="send to a sink that does nearly nothing, ours or --sink"
    )
    parser.add_argument("--sessions", type=int, default=50, help="connections at once")
    parser.add_argument("--messages", type=int, default=0, help="stop after so many")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long (5, if --messages is not given)")
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second, open loop; 0: closed loop")
    parser.add_argument("--size", default="4000", help='octets a message has, about, or "mixed"')
    parser.add_argument("--new", action="store_true", help="a new connection for each message")
    parser.add_argument("--pipelining", action="store_true", help="MAIL, RCPT and DATA in one write (RFC 2920)")
    parser.add_argument("--security", choices=("plain", "starttls", "tls"), default="plain", help="TLS, and when")
    parser.add_argument("--auth", choices=("plain", "login"), default="", help="AUTH mechanism")
    parser.add_argument("--user", default="", help="AUTH user")
    parser.add_argument("--secret", default="", help="AUTH secret")
    parser.add_argument(
        "--proxy-source", default="", metavar="IP", help="send a PROXY v2 header that claims this client"
    )
    parser.add_argument("--sender", default="load@shop.example", help="envelope sender")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="recipient; may be given again")
    parser.add_argument("--recipients", type=int, default=1, help="rcpt1@… to rcptN@… of the first recipient's domain")
    parser.add_argument(
        "--one-each", action="store_true", help="each message to the next of the recipients, not to all"
    )
    parser.add_argument("--processes", type=int, default=1, help="share the work out over so many processes")
    parser.add_argument("--seed", type=int, default=5321, help="of the mail that is sent")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds without an answer that are an error")
    parser.add_argument(
        "--label", default=os.urandom(3).hex(), help="LABEL-NUMBER is the left side of each Message-ID; empty: as it is"
    )
    parser.add_argument("--ledger", metavar="FILE", help="write the numbers answered 250, and when, into this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = arguments().parse_args(argv)
    recipients = tuple(given.to or ["inbox@mailfarm.test"])
    if given.recipients > 1:
        domain = recipients[0].rpartition("@")[2]
        recipients = tuple(f"rcpt{number}@{domain}" for number in range(1, given.recipients + 1))
    options = Options(
        recipients, given.sender, not given.new, given.pipelining, given.security, given.auth, given.user, given.secret,
        given.proxy_source, given.one_each,
    )  # fmt: skip
    plan = Plan(
        "127.0.0.1", 0, options, given.sessions, given.messages, given.seconds or (0.0 if given.messages else 5.0),
        given.rate, given.size, given.seed, given.timeout, given.label,
    )  # fmt: skip
    if given.ceiling:
        from sink import TrivialSink

        with TrivialSink() as port:
            result = run(replace(plan, port=port), given.processes)
        form = {"ceiling": True, **result.form()}
    elif given.server:
        host, _, port_text = given.server.rpartition(":")
        result = run(replace(plan, host=host or "127.0.0.1", port=int(port_text)), given.processes)
        form = result.form()
    else:
        arguments().error("say which server, HOST:PORT, or --ceiling")
    if given.ledger:
        with open(given.ledger, "wb") as file:
            pickle.dump((result.numbers, result.accepted), file)
    print(json.dumps(form, indent=1))
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(_work() if sys.argv[1:] == [_WORKER] else main())
