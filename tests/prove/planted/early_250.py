"""mailfarm with a defect: 250 is said before the queue has confirmed. ``python early_250.py COMMAND…``."""

import sys
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from mailfarm.__main__ import main
from mailfarm.inbound.accept import Accept
from mailfarm.mail.reply import Reply

LATE = 0.5
"""Seconds until it is put all the same."""

_take = Accept.take


class Copy:
    """Content that stays when what it was copied from is closed."""

    def __init__(self, chunks: list[bytes], sha256: bytes) -> None:
        self._chunks = chunks
        self.size = sum(map(len, chunks))
        self.sha256 = sha256

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    def close(self) -> None:
        pass


async def take(self: Accept, envelope: Any, content: Any, *given: Any) -> Reply:
    from twisted.internet import reactor  # which one it is, mailfarm decides

    copy = Copy([bytes(chunk) async for chunk in content.chunks()], content.sha256)
    content.close()
    task.deferLater(reactor, LATE, lambda: Deferred.fromCoroutine(_take(self, envelope, copy, *given)))
    return Reply(250, "2.0.0", "spooled")


Accept.take = take

if __name__ == "__main__":
    sys.exit(main())
