"""What reading a message costs grows as the message does: twice as much of it takes about twice as long.

Both sizes are measured in turn in one run, each several times, and the best of each is compared: a machine that is busy
with other things slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from test_bombs import encoded, header, messages, multipart, nested

from mailfarm.inbound.found import find
from mailfarm.inbound.parse import parse

RATIO = 3.2
"""Twice as long is linear, four times quadratic."""
LEAST = 0.05
"""Seconds that the smaller one must take to be compared: below, everything is noise."""

FAMILIES: dict[str, Callable[[int], bytes]] = {
    "parts": lambda n: multipart(b"--b\r\n\r\nx\r\n" * (20_000 * n) + b"--b--"),
    "lines of dashes": lambda n: multipart(b"\r\n--" * (100_000 * n)),
    "boundaries that begin alike": lambda n: nested(60, b"-" * (200_000 * n), boundary=lambda m: b"-" * (m + 1)),
    "messages around much": lambda n: messages(250, b"x" * 76 + b"\r\n" * (20_000 * n)),
    "headers": lambda n: header(b"X: a\r\n" * (100_000 * n)),
    "a folded header": lambda n: header(b"X:" + b" a\r\n" * (300_000 * n)),
    "encoded words": lambda n: header(b"Subject: " + b"=?utf-8?q?a?= " * (30_000 * n)),
    "ends of encoded words": lambda n: header(b"Subject: =?utf-8?q?a" + b"?=a" * (200_000 * n)),
    "encoded words in base64": lambda n: encoded(b"Subject: " + b"=?utf-8?q?a?= " * (30_000 * n)),
    "quotes": lambda n: header(b"From: " + b'"' * (30_000 * n)),
    "nested comments": lambda n: header(b"From: " + b"(" * (200_000 * n) + b"a@x.test"),
    "addresses": lambda n: header(b"To: " + b"a@x.test, " * (100_000 * n)),
    "continuations with gaps": lambda n: header(
        b"Content-Type: a/b; " + b"; ".join(b"name*%d*=%%41" % m for m in range(0, 60_000 * n, 3))
    ),
    "parameters": lambda n: header(b"Content-Type: text/plain; " + b"a=b;" * (200_000 * n)),
    "base64 without line ends": lambda n: header(b"Content-Transfer-Encoding: base64", b"QUJD" * (500_000 * n)),
    "quoted-printable": lambda n: header(b"Content-Transfer-Encoding: quoted-printable", b"=" * (1_000_000 * n)),
    **{
        f"HTML of {name}": lambda n, piece=piece: header(
            b"Content-Type: text/html", piece * (400_000 * n // len(piece))
        )
        for name, piece in {
            "open tags": b"<a href=",
            "angle brackets": b"<",
            "open comments": b"<!--",
            "quotes": b"<a title='",
            "open scripts": b"<script>",
            "end tags": b"</a>",
            "nested tables": b"<table><tr><td>",
            "links": b'<a href="https://x.test/%2f">x</a>',
            "raw ends": b"<title></titl",
        }.items()
    },
}


def seconds(raw: bytes) -> float:
    began = time.process_time()
    parsed = parse(raw)
    find(parsed.subject, parsed.text, parsed.html)
    return time.process_time() - began


@pytest.mark.parametrize("name", FAMILIES)
def test_twice_as_much_takes_about_twice_as_long(name: str) -> None:
    small, large = FAMILIES[name](1), FAMILIES[name](2)
    ratio = 0.0
    for _ in range(3):
        least = [min(seconds(raw) for _ in range(2)) for raw in (small, large)]
        ratio = least[1] / max(least[0], LEAST)
        if ratio <= RATIO:
            return
    pytest.fail(f"twice as much takes {ratio:.1f} times as long")
