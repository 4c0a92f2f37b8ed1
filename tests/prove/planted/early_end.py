"""mailfarm with a defect: a worker ends entries before what it files is committed. ``python early_end.py COMMAND…`` is
``mailfarm``."""

import sys
from typing import Any

from twisted.internet import task

from mailfarm.__main__ import main
from mailfarm.inbound.pipeline import Pipeline

LATE = 0.5
"""Seconds from the end of the entries to the unit that files them."""

_file = Pipeline._file


async def file(self: Pipeline, items: Any, done: list[str], *given: Any) -> None:
    from twisted.internet import reactor  # which one it is, mailfarm decides

    await self._queue.done([item.attempt.fence for item in items])
    await task.deferLater(reactor, LATE)
    await _file(self, items, done, *given)


Pipeline._file = file

if __name__ == "__main__":
    sys.exit(main())
