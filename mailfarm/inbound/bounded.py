"""Whether fast-mail-parser's time and memory are bounded on a message, found out in far less time than it takes itself.

It counts the characters of a line for each encoded word in it, holds all lines of dashes against each boundary, and
decodes and copies each message within the message. What there may be too much of goes to the plain parser.
"""

from __future__ import annotations

import re

LARGE = 4 * 1024 * 1024
"""Octets above which the plain parser is taken: it decodes no part to know its size."""
SMALL = 64 * 1024
"""Octets up to which attached messages are left to the fast parser: whatever is in them takes it some milliseconds."""
MOST_WORDS = 500
"""Beginnings and ends of encoded words that are left to the fast parser."""
MOST_LINES = 5000
"""Lines that begin with ``--`` which are left to it."""
MOST_PLACES = 2000
"""Places of an octet that are looked at one by one."""


def safe_for_fast(data: bytes) -> bool:
    """Whether the fast parser's time and memory are bounded on this message."""
    if len(data) > LARGE:
        return False
    # for whatever begins or ends an encoded word it counts the characters of the line in front of it
    if _places(b"?", data, MOST_WORDS) is None and (data.count(b"=?") > MOST_WORDS or data.count(b"?=") > MOST_WORDS):
        return False
    # of each multipart, all lines of dashes are held against its boundary
    large = len(data) > 3 * MOST_LINES
    if large and _places(b"-", data, MOST_PLACES) is None and data.count(b"\n--") > MOST_LINES:
        return False
    return len(data) <= SMALL or not _may_hold_messages(data)


def _places(octet: bytes, data: bytes, most: int) -> list[int] | None:
    """Where an octet is, None if that is in more than ``most`` places. One that is not in base64 is found ten times as
    fast as anything else."""
    found: list[int] = []
    at = data.find(octet)
    while at >= 0:
        if len(found) == most:
            return None
        found.append(at)
        at = data.find(octet, at + 1)
    return found


# A Content-Type up to its parameters. What stands around a name does not count for the fast parser.
_NAME = rb"[\t\v\f\r \x85\xa0]*+[cC][oO][nN][tT][eE][nN][tT]-[tT][yY][pP][eE]"
_TYPE, _LINE_OF_TYPE = re.compile(_NAME + rb"((?:[^;\n]++|\n[ \t])*+)"), re.compile(rb"\n" + _NAME)


def _may_hold_messages(data: bytes) -> bool:
    """Whether a part's type is, or with its encoded words may be, that of an attached message. The fast parser decodes
    what such a part holds before it looks into it: nothing here would see what that is, and each level is a copy."""
    colons = _places(b":", data, MOST_PLACES)
    lines = {0}
    if colons is None:
        lines |= {line.start() + 1 for line in _LINE_OF_TYPE.finditer(data)}
    else:
        # from a colon back to the one before: no line is looked through twice
        lines |= {data.rfind(b"\n", *two) + 1 for two in zip([0, *colons], colons, strict=False)}
    kinds = (_TYPE.match(data, line) for line in lines)
    return any(kind is not None and (b"822" in kind[1] or b"=?" in kind[1]) for kind in kinds)
