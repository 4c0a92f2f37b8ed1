"""The queue alone, for the operator's command: no service runs, nothing else is opened."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from mailfarm.config import Settings
from mailfarm.errors import NotFound, QueueUnavailable
from mailfarm.ids import Ids
from mailfarm.ports import Queue

from .background import clock
from .steps import Steps
from .stores import DATABASE, Stores

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds the queue has to answer at first."""


async def with_queue(settings: Settings, folder: Path, reactor: Any, work: Callable[[Queue], Awaitable[T]]) -> T:
    """What ``work`` gives with the queue of these settings. Raises MailfarmError, what ``work`` raises."""
    if not settings.farm.queue_url and not (folder / DATABASE).exists():
        raise NotFound(f"there is no queue in {folder}; set MAILFARM_QUEUE_URL, or name the folder with --data")
    ids = Ids(clock, os.urandom)
    stores = Stores(settings, folder, ids, reactor, CollectorRegistry(), name="queue", uses={"queue"})
    steps = Steps(reactor)
    try:
        await steps.up(*stores.steps)
        until = reactor.seconds() + PATIENCE
        while True:
            try:
                await stores.queue.depth()  # connecting takes a moment
                break
            except QueueUnavailable:
                if reactor.seconds() > until:
                    raise
            await steps.pause(0.05)
        return await work(stores.queue)
    finally:
        await steps.down_all()
