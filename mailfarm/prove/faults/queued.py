"""Mail that stays where it is for a while: a store loses only what is nowhere else yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from mailfarm.prove.target import Target

READABLE = 120.0
"""Seconds until a message is readable, at most. An entry whose take was not heard, on a busy machine, waits for the end
of its lease."""


@contextlib.contextmanager
def queued(target: Target) -> Iterator[None]:
    """No worker files meanwhile: what is acknowledged is in the queue and nowhere else."""
    workers = target.of("inbound")
    for worker in workers:
        worker.pause()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until it is so. Raises TimeoutError with ``what`` is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
