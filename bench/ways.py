"""Ways of sending that are measured, and who takes part in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peers.base import ADDRESSES, INBOX

RECIPIENTS = 100
_TAGGED = tuple(f"box7+{number}@mailfarm.test" for number in range(RECIPIENTS))
_EACH = ADDRESSES[:RECIPIENTS]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``peers`` are keys of ``field.PEERS``; ``to`` the recipients, each message to the next one of them unless
    ``together``. A message becomes ``copies`` messages. ``seconds`` is how long one measurement sends."""

    name: str
    title: str
    peers: tuple[str, ...]
    options: tuple[str, ...] = ("--sessions", "50")
    to: tuple[str, ...] = ADDRESSES
    together: bool = False
    copies: int = 1
    seconds: float = 3.0

    def words(self) -> list[str]:
        """Options of the generator."""
        to = [word for address in self.to for word in ("--to", address)]
        return [*self.options, *to] if self.together else [*self.options, "--one-each", *to]


_MANY = ("--sessions", "20", "--pipelining")
SCENARIOS = (
    Scenario(
        "kept",
        "4 KB, kept connections, 50 sessions",
        ("sink", "edge", "mx", "mx-off", "cluster", "cluster-off", "queue", "aiosmtpd", "postfix"),
    ),
    Scenario(
        "pipelined",
        "4 KB, kept, PIPELINING, 50 sessions",
        ("sink", "edge", "mx", "mx-off", "cluster", "queue"),
        ("--sessions", "50", "--pipelining"),
    ),
    Scenario(
        "new",
        "4 KB, a connection each, 50 sessions",
        ("sink", "edge", "mx", "mx-off", "aiosmtpd", "queue"),
        ("--sessions", "50", "--new"),
    ),
    Scenario(
        "dev",
        "4 KB, kept, 50 sessions, for development",
        ("sink", "dev", "maildev"),
        to=(INBOX,),
    ),
    Scenario(
        "mixed",
        "2 to 300 KB, kept, PIPELINING, 20 sessions",
        ("sink", "edge", "cluster", "queue"),
        (*_MANY, "--size", "mixed"),
    ),
    Scenario(
        "large",
        "1 MB, kept, PIPELINING, 10 sessions",
        ("sink", "edge", "cluster", "queue"),
        ("--sessions", "10", "--pipelining", "--size", "1000000"),
        seconds=4.0,
    ),
    Scenario(
        "one-mailbox",
        "4 KB, 100 recipients in one mailbox, PIPELINING, 20 sessions",
        ("sink", "cluster", "queue"),
        _MANY,
        to=_TAGGED,
        together=True,
    ),
    Scenario(
        "each-mailbox",
        "4 KB, 100 recipients in 100 mailboxes, PIPELINING, 20 sessions",
        ("sink", "cluster", "queue"),
        _MANY,
        to=_EACH,
        together=True,
        copies=RECIPIENTS,
    ),
)
_QUICK = {
    "kept": ("sink", "edge", "mx", "cluster", "queue", "aiosmtpd", "postfix"),
    "dev": ("sink", "dev", "maildev"),
    "new": ("sink", "mx"),
    "large": ("cluster", "queue"),
}


EXTRA = ("latency", "scale")
"""What is measured besides: see the modules of these names."""


def names() -> str:
    """What can be asked for."""
    return " ".join([*(one.name for one in SCENARIOS), *EXTRA])


def chosen(quick: bool, only: str) -> tuple[list[Scenario], set[str]]:
    """Scenarios to measure, and what of ``EXTRA``; ``only`` are names parted by commas, empty for all. Raises
    ValueError."""
    if only:
        wanted = set(only.split(","))
        if unknown := wanted - set(names().split()):
            raise ValueError(f"no scenario {', '.join(sorted(unknown))}; there are {names()}")
        return [one for one in SCENARIOS if one.name in wanted], wanted & set(EXTRA)
    if quick:
        return [replace(one, peers=_QUICK[one.name], seconds=1.0) for one in SCENARIOS if one.name in _QUICK], {
            "latency"
        }
    return list(SCENARIOS), set(EXTRA)
