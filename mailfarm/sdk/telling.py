"""What the commands share: exit codes, what is said on standard error, numbers given as options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Final

from .checks import LARGEST_PORT
from .plain import plain_lines

DONE, FAILED, USAGE, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4
MAILBOX: Final = "inbox@mailfarm.test"
"""The default mailbox of a server that does not name one."""


@contextmanager
def standard_output() -> Iterator[None]:
    """Around a command's work: what its locale cannot say is escaped, and what cannot be written raises OSError here
    and not when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise OSError("standard output is closed")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # files, HTTP and SMTP have errors of their own
        with suppress(OSError):  # what is left in its buffer would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"cannot write to standard output: {error.strerror or error}") from None


def tell(word: str, text: str, code: int) -> int:
    """Say on standard error what went wrong, and give back the exit code."""
    if sys.stderr is not None:  # with 2>&- there is none, and print would take standard output instead
        print(f"mailfarm {word}: {plain_lines(text)}", file=sys.stderr)
    return code


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def port(text: str) -> int:
    """A port."""
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to {LARGEST_PORT}")
    return int(text)


def span(text: str) -> float:
    """Seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds
