"""What a pipelining client (RFC 2920) has said already and waits to be asked about: the recipients that follow.

A host that has to look each of them up can do so together. Nothing is decided here: a command is read again when its
turn comes, and may still be refused.
"""

from __future__ import annotations

import re
from typing import Final

from .config import ServerConfig
from .grammar import Malformed, rcpt

_RCPT: Final = re.compile(rb"RCPT (TO:<[^\r\n\0]{1,500})\r\n", re.IGNORECASE)


def recipients_ahead(buf: bytes, pos: int, most: int, config: ServerConfig) -> list[str]:
    """The addresses of at most ``most`` RCPT commands that stand in ``buf`` from ``pos`` on, one behind the other."""
    found: list[str] = []
    while len(found) < most and (match := _RCPT.match(buf, pos)) is not None:
        pos = match.end()
        try:
            found.append(rcpt(match[1], config, True).recipient.address)
        except Malformed:
            continue
    return found
