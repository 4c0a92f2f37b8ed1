"""Large content on Redis: pieces first, the entry last, and nothing left behind."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import pytest_twisted
from redis_house import Working, take_all
from spooled_samples import spooled, start, until
from twisted.internet.defer import CancelledError, Deferred

from mailfarm.ports import CHUNK, Depth


def pieces(redis):
    """The keys of large content."""
    return redis.ask("keys", "*:pieces:*").split()


class Halting:
    """Content whose end does not come."""

    size = 8 * CHUNK

    def __init__(self):
        self.rest = Deferred()

    async def chunks(self):
        for _ in range(5):
            yield os.urandom(CHUNK)
        await self.rest

    def close(self): ...


@pytest_twisted.ensureDeferred
async def test_large_content_without_an_entry_ends_by_itself_and_with_one_never_does(own):
    async with Working(own.url) as queue:
        await queue.put(spooled(os.urandom(3 * CHUNK)))
        (kept,) = pieces(own)
        assert own.ask("ttl", kept) == "-1"
        halting = Halting()
        putting = start(queue.put(replace(spooled(), content=halting)))
        putting.addErrback(lambda failure: failure.trap(OSError))
        await until(lambda: [own.ask("hlen", key) for key in pieces(own) if key != kept] == ["5"])
    halting.rest.errback(OSError("the process went away in the middle"))
    (left,) = [key for key in pieces(own) if key != kept]
    assert 0 < int(own.ask("ttl", left)) <= 600
    async with Working(own.url) as queue:
        (attempt,) = await take_all(queue)
        await queue.done([attempt.fence])
        assert pieces(own) == [left], "its content goes with the entry"


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest_twisted.ensureDeferred
async def test_content_that_cannot_be_read_leaves_nothing(own, after):
    async with Working(own.url) as queue:
        with pytest.raises(OSError, match="the file is gone"):
            await queue.put(spooled(os.urandom(8 * CHUNK), fail_after=after))
        await until(lambda: not pieces(own))
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_large_put_that_is_cancelled_leaves_nothing(own):
    async with Working(own.url) as queue:
        putting = start(queue.put(spooled(os.urandom(40 * CHUNK))))
        putting.addErrback(lambda failure: failure.trap(CancelledError))
        await until(lambda: pieces(own))
        putting.cancel()
        await until(lambda: not pieces(own))
