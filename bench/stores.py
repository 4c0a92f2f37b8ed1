"""What ``queues.py`` and ``file.py`` share: spooled mail, and Redis and the queue on it as a cluster has them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mailfarm.backends.queue_content import Stored, Whole
from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Origin, Spooled


def clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


IDS = Ids(clock, os.urandom)


def spooled(content: bytes, account: str, mailbox: str) -> Spooled:
    """Mail that was accepted; large content is read in chunks."""

    async def load(number: int) -> bytes:
        return content[number * CHUNK : (number + 1) * CHUNK]

    return Spooled(
        IDS.new(),
        account,
        clock(),
        Envelope("no-reply@shop.example", (Recipient("inbox@mailfarm.test"),)),
        Origin("mx", "192.0.2.1", 40000, "client.example.com", "ESMTP"),
        (mailbox,),
        b"Received: from client.example.com ([192.0.2.1]) by mx.mailfarm.test with ESMTP\r\n",
        sha256(content).digest(),
        Whole(content) if len(content) <= CHUNK else Stored(len(content), load),
    )


@contextmanager
def folder(where: str | None) -> Iterator[Path]:
    """A folder that a server's own user may enter, in ``where`` or the system's place; gone at the end."""
    path = Path(tempfile.mkdtemp(prefix="mailfarm-bench-", dir=where))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@asynccontextmanager
async def redis_link(url: str, reactor: Any) -> AsyncIterator[RedisLink]:
    """A link that answers, with a lane each for puts, takes and large content."""
    link = RedisLink(url, reactor, connections=3)
    await link.start()
    if not await link.ready(20.0):
        raise SystemExit(f"{link} does not answer: {link.why}")
    yield link
    await link.stop()


def redis_queue(link: RedisLink, reactor: Any, registry: CollectorRegistry) -> RedisQueue:
    """A queue of one shard."""
    return RedisQueue(link, "inbound", IDS, clock, reactor, registry)
