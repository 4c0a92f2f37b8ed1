"""Recipients that a pipelining client has said already."""

from __future__ import annotations

import pytest

from mailfarm.smtp.ahead import recipients_ahead
from mailfarm.smtp.config import ServerConfig

CONFIG = ServerConfig("mx.test")


@pytest.mark.parametrize(
    ("waiting", "found"),
    [
        (b"", []),
        (b"RCPT TO:<a@b.example>", []),
        (b"RCPT TO:<a@b.example>\r\n", ["a@b.example"]),
        (b"rcpt to:<A@b.example> NOTIFY=NEVER\r\nRCPT TO:<c@d.example>\r\nRC", ["A@b.example", "c@d.example"]),
        (b"RCPT TO:<Postmaster>\r\nDATA\r\nRCPT TO:<c@d.example>\r\n", ["Postmaster"]),
        (b"RCPT TO:<>\r\nRCPT TO:<@b>\r\nRCPT TO:<c@d.example>\r\n", ["c@d.example"]),
        (b"RCPT TO:<a@b.example>\nRCPT TO:<c@d.example>\r\n", []),
        (b"RCPT TO:<a\0@b.example>\r\n", []),
        ("RCPT TO:<j\u00f6rg@b.example>\r\n".encode(), ["j\u00f6rg@b.example"]),
        (b"RCPT TO:<\xff@b.example>\r\nRCPT TO:<c@d.example>\r\n", ["c@d.example"]),
        (b"QUIT\r\n", []),
    ],
)
def test_what_is_there_is_read_up_to_the_first_that_is_no_rcpt(waiting: bytes, found: list[str]) -> None:
    assert recipients_ahead(b"before" + waiting, 6, 100, CONFIG) == found
    assert recipients_ahead(b"before" + waiting, 6, 1, CONFIG) == found[:1]
