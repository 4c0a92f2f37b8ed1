"""Command lines: what nearly all of them look like, and what to say to one that is too long or broken.

RFC 5321 §4.5.3.1.4 and .5, RFC 4954 §4 for AUTH. ``skipped`` are the octets of a line that were let go already.
"""

from __future__ import annotations

import re
from typing import Final

from mailfarm.mail.reply import Reply

from . import replies
from .state import COMMAND, RESPONSE, State

USUAL: Final = re.compile(rb"([A-Z]{4})(?: ([^\r\n\0]{0,500}))?\r\n")
"""A verb, perhaps a space and an argument. What is not like that is no error yet: it is looked at with more care."""

LONGEST_LINE: Final = 64 * 1024
"""A command line longer than this is not worth waiting for its end, in octets."""


def limit(s: State, line: bytes) -> int:
    """How long a line that begins with ``line`` may be, its end counted."""
    # RFC 4954 §4.: 12288 octets, also for the command with its initial response
    if s.phase == RESPONSE or line[:5].upper() == b"AUTH ":
        return s.config.max_auth_line
    return s.config.max_command_line


def odd_line(s: State, line: bytes, skipped: int) -> Reply | None:
    """What to say to a line that is long, or has a CR, LF or NUL where none belongs; None if it is well."""
    length = len(line) + skipped
    if length > LONGEST_LINE or is_handshake(s, line, skipped):
        return replies.BAD_LINE
    if not line.endswith(b"\r\n"):
        return replies.BAD_LINE
    if length > limit(s, line) or skipped:
        s.log.append(b"(a line that is too long)")
        return replies.AUTH_LINE_TOO_LONG if s.phase == RESPONSE else replies.LINE_TOO_LONG
    if line.find(b"\r") != len(line) - 2 or b"\0" in line:
        return replies.BAD_LINE
    return None


def is_handshake(s: State, line: bytes, skipped: int) -> bool:
    """Whether it is a TLS ClientHello where plain text belongs, which has no line end to wait for."""
    return line[0] == 0x16 and not skipped and s.phase == COMMAND
