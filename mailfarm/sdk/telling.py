"""What the commands share: exit codes, what is said on standard error, numbers given as options."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from .plain import plain_lines

DONE, FAILED, USAGE, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4
MAILBOX: Final = "inbox@mailfarm.test"


def tell(word: str, text: str, code: int) -> int:
    """Say on standard error what went wrong, and give back the exit code."""
    print(f"mailfarm {word}: {plain_lines(text)}", file=sys.stderr)
    return code


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def span(text: str) -> float:
    """Seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
