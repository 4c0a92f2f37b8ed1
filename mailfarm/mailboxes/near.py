"""What came near: for who waited in vain, the messages that met most of what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailfarm.events import Summary
from mailfarm.ports import Tx

from . import scan
from .changes import summary_from
from .match import Criteria, Matcher

KEPT: Final = 5
LOOKED_AT: Final = 200
"""The newest messages, among which they are looked for."""


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A message that came and did not match: ``failed`` names the criteria it does not meet."""

    message: Summary
    failed: tuple[str, ...]


async def near_misses(tx: Tx, mailbox: str, criteria: Criteria, *, after: int, upto: int) -> tuple[NearMiss, ...]:
    """Those that met the most criteria, the newest first, of the messages above ``after`` and not above ``upto``."""
    if not criteria:
        return ()
    rows = await tx.rows(
        "select id, seen, summary from message where mailbox = ? and seq > ? and seq <= ? order by seq desc limit ?",
        (mailbox, after, upto, LOOKED_AT),
    )
    matcher = Matcher(criteria)
    found: list[NearMiss] = []
    octets = 0
    for id, seen, text in rows:
        summary = summary_from(text, bool(seen))
        failed = matcher.failed(summary)
        if "contains" in failed and octets < scan.MOST_TEXT:
            said = await scan.text(tx, id)
            octets += len(said)
            failed = matcher.failed(summary, said)
        if failed:
            found.append(NearMiss(summary, failed))
    return tuple(sorted(found, key=lambda miss: (len(miss.failed), -miss.message.seq))[:KEPT])
