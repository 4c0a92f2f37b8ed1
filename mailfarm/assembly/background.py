"""Time, and what runs without anybody waiting for it."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

_log = Logger()


def clock() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def spawn(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in the background; what it raises is logged."""
    Deferred.fromCoroutine(coroutine).addErrback(lambda failure: _log.failure("a background task failed", failure))


async def nothing() -> None:
    """A step that takes none."""
