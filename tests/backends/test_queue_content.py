"""Large content out of a queue: in order, a few pieces ahead, and quiet about those that nobody wants any more."""

from __future__ import annotations

import gc

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from mailfarm.backends.queue_content import AHEAD, Stored
from mailfarm.errors import NotFound, QueueUnavailable
from mailfarm.ports import CHUNK

DATA = b"".join(bytes([number]) * CHUNK for number in range(6)) + b"end"


class Store:
    """Answers when it is told to."""

    def __init__(self):
        self.asked = []

    def load(self, number):
        self.asked.append(Deferred())
        return self.asked[number]

    def answer(self, number):
        self.asked[number].callback(DATA[number * CHUNK : (number + 1) * CHUNK])


async def gathered(content):
    return b"".join([piece async for piece in content.chunks()])


@pytest_twisted.ensureDeferred
async def test_pieces_come_in_order_whichever_is_loaded_first():
    store = Store()
    reading = Deferred.fromCoroutine(gathered(Stored(len(DATA), store.load)))
    assert len(store.asked) == AHEAD + 1
    for number in (2, 0, 1, 4, 3, 5, 6):
        store.answer(number)
    assert await reading == DATA
    assert len(store.asked) == 7


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
@pytest_twisted.ensureDeferred
async def test_no_more_pieces_are_asked_for_than_there_are(size):
    asked = []

    async def load(number):
        asked.append(number)
        return DATA[number * CHUNK : min((number + 1) * CHUNK, size)]

    assert await gathered(Stored(size, load)) == DATA[:size]
    assert asked == list(range(-(-size // CHUNK)))


@pytest_twisted.ensureDeferred
async def test_a_piece_that_is_too_short_does_not_make_a_short_content():
    async def load(number):
        if number == 2:
            raise NotFound("there is no piece 2")
        return DATA[:10]

    with pytest.raises(NotFound):
        await gathered(Stored(CHUNK + 1, load))


@pytest_twisted.ensureDeferred
async def test_the_first_that_fails_is_told_and_the_others_fail_unheard():
    store = Store()
    reading = Deferred.fromCoroutine(gathered(Stored(len(DATA), store.load)))
    store.asked[1].errback(QueueUnavailable("away"))
    store.asked[2].errback(QueueUnavailable("away, too"))
    store.answer(0)
    with pytest.raises(QueueUnavailable, match=r"away$"):
        await reading
    store.asked[3].errback(QueueUnavailable("and this"))
    del store
    gc.collect()  # what fails unheard is found out here: see conftest.py


@pytest_twisted.ensureDeferred
async def test_who_stops_reading_leaves_nothing_behind():
    store = Store()
    pieces = Stored(len(DATA), store.load).chunks()
    store_first = Deferred.fromCoroutine(anext(pieces))
    store.answer(0)
    assert await store_first == DATA[:CHUNK]
    await pieces.aclose()
    for late in store.asked[1:]:
        late.errback(QueueUnavailable("away"))
