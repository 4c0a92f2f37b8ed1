#!/usr/bin/env python3
"""How long parsing one message takes, on one core: all of it, and of that the MIME tree alone. Beside it what is left
to those who look: the visible text of HTML, when a mailbox is searched, and one-time codes, when a message is read.

Filing cannot be faster than this, and in ``mailfarm dev`` it shares its core with everything else. Microseconds of CPU
a message; the corpus is that of the load generator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import chart
import fast_mail_parser
import report
from corpus import corpus

from mailfarm.inbound.codes import codes
from mailfarm.inbound.parse import parse
from mailfarm.mailboxes.visible import shown


def cost(work: Callable[[Any], object], items: Sequence[Any], seconds: float = 0.3) -> float:
    """Microseconds of CPU each: the fastest of the passes that fit into ``seconds``, the first one not counted."""
    best = float("inf")
    end = time.monotonic() + seconds
    for passed in range(1_000):
        began = time.process_time()
        for item in items:
            work(item)
        if passed:
            best = min(best, (time.process_time() - began) / len(items) * 1e6)
        if passed and time.monotonic() > end:
            break
    return best


HEAD = ("octets", "parse µs", "MIME tree µs", "visible text µs", "codes µs", report.OTHERS)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small mail only; kept in .make/bench")
    given = parser.parse_args()
    facts = report.machine()
    rows: list[tuple[str, float, float, float, float, float]] = []
    for kind in ("1500", "4000") if given.quick else ("1500", "4000", "20000", "mixed", "1000000"):
        others = report.Others()
        mails = [mail.content for mail in corpus(kind, 20)]
        parsed = [parse(content) for content in mails]
        rows.append(
            (
                kind,
                cost(parse, mails),
                cost(lambda content: fast_mail_parser.parse_email_tree(content, mode="lazy"), mails),
                cost(lambda one: shown(one.html), parsed),
                cost(codes, [(one.text, shown(one.html)) for one in parsed]),
                others.cores(),
            )
        )
        report.tell(f"{kind}: {rows[-1][1]:.0f} µs")
    picture = chart.bars("Parsing a message", "µs", [(f"{row[0]} octets", row[1]) for row in rows])
    report.save_rows("parse", given.quick, facts, HEAD, rows, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
