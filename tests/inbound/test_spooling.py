"""Which way mail goes: into the queue, or into the local spool."""

from __future__ import annotations

import asyncio

import pytest

from mailfarm.backends.queue_content import Whole
from mailfarm.errors import Invalid, QueueFull, QueueRefuses, QueueUnavailable, TooLarge
from mailfarm.inbound.spooling import SpoolingIntake
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import Origin, Spooled

ORIGIN = Origin("mx", "192.0.2.7", 40000, "client.test", "ESMTPS")
LARGEST = 1_000_000
AWAY, FULL = QueueUnavailable("away"), QueueFull("full")


class Place:
    """What stands for the queue, or the spool: it answers with ``error``. The port's outcomes, not a store."""

    def __init__(self, error: Exception | None = None, backlog: bool = False) -> None:
        self.error = error
        self.backlog = backlog
        self.got: list[str] = []

    def fits(self, size: int) -> None:
        if size > LARGEST:
            raise TooLarge("never")

    async def admit(self, size: int) -> None:
        self.check(size)

    def check(self, size: int) -> None:
        if self.error is not None:
            raise self.error

    async def put(self, spooled: Spooled) -> None:
        self.check(0)
        self.got.append(spooled.id)


def mail(size: int) -> Spooled:
    envelope = Envelope("a@client.test", (Recipient("b@mx.test"),))
    return Spooled("one", "acc", 0, envelope, ORIGIN, ("box",), b"", bytes(32), Whole(bytes(size)))


def way(queue: Place, spool: Place, size: int = 1000) -> str:
    """Where mail goes: queue, spool, or the error that is told."""
    intake = SpoolingIntake(queue, spool)
    try:
        asyncio.run(intake.put(mail(size)))
    except (QueueFull, QueueUnavailable, Invalid) as error:
        return type(error).__name__
    (place,) = [name for name, place in (("queue", queue), ("spool", spool)) if place.got]
    return place


@pytest.mark.parametrize(
    ("queue", "spool", "backlog", "expected"),
    [
        (None, None, False, "queue"),
        (AWAY, None, False, "spool"),
        (QueueRefuses("a wrong password"), None, False, "spool"),
        (FULL, None, False, "QueueFull"),  # it pushes back: that is no reason
        (AWAY, FULL, False, "QueueFull"),
        (AWAY, AWAY, False, "QueueUnavailable"),
        (Invalid("a lone surrogate"), None, False, "Invalid"),
        # older mail waits: what comes goes behind it, as long as there is room
        (None, None, True, "spool"),
        (AWAY, None, True, "spool"),
        (None, FULL, True, "queue"),
        (None, AWAY, True, "queue"),
        (AWAY, FULL, True, "QueueFull"),
        (AWAY, AWAY, True, "QueueUnavailable"),
        (FULL, FULL, True, "QueueFull"),
        (None, Invalid("a lone surrogate"), True, "Invalid"),
    ],
)
def test_the_way_of_a_mail(queue: Exception | None, spool: Exception | None, backlog: bool, expected: str) -> None:
    assert way(Place(queue), Place(spool, backlog)) == expected


@pytest.mark.parametrize(
    ("queue", "spool", "expected"),
    [(None, FULL, None), (FULL, None, FULL), (AWAY, None, None), (AWAY, FULL, FULL), (AWAY, AWAY, AWAY)],
)
def test_room_is_asked_for_where_mail_would_go(
    queue: Exception | None, spool: Exception | None, expected: Exception | None
) -> None:
    intake = SpoolingIntake(Place(queue), Place(spool))
    if expected is None:
        asyncio.run(intake.admit(1000))
    else:
        with pytest.raises(type(expected)):
            asyncio.run(intake.admit(1000))


@pytest.mark.parametrize("backlog", [False, True])
@pytest.mark.parametrize("queue", [None, AWAY, FULL])
def test_what_the_queue_can_never_hold_is_not_kept_either(queue: Exception | None, backlog: bool) -> None:
    assert way(Place(queue), Place(backlog=backlog), LARGEST + 1) == "TooLarge"
    with pytest.raises(TooLarge):
        asyncio.run(SpoolingIntake(Place(queue), Place()).admit(LARGEST + 1))
