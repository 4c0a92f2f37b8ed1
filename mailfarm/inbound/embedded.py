"""Filing in the transaction that accepts, where the queue and the database are one file of one process.

There is no queue in between then: mail is parsed, and one commit, shared by all who wait for it, stores content,
message, change number and ``filed``. With that it is durable, 250 is said, and it can be read. That is one commit for a
message instead of four (put, take, file, done), and its content is written once.

What cannot go this way goes by the queue, under the same spool id: content that is too large to stand in memory so
often; mail for very many mailboxes; mail whose parsing or filing fails, for whatever reason. So a message that is
difficult is accepted like any other, and ``pipeline`` deals with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from mailfarm.ids import Ids
from mailfarm.mailboxes.announce import announce_filed
from mailfarm.mailboxes.filing import Filing, ToFile, file, to_file
from mailfarm.mailboxes.packing import Packer
from mailfarm.ports import Bus, Spooled, Tx

from .accept import AT_ONCE, Intake
from .parse import parse

T = TypeVar("T")

LARGEST = AT_ONCE
"""Octets of content; what is larger goes by the queue, piece by piece."""
INLINE = 64 * 1024
"""Content up to this many octets is parsed on the spot, in a few milliseconds, larger content by ``compute``."""
MOST_MAILBOXES = 100
"""Mailboxes one mail may lead to."""
MESSAGE = 4096
"""Octets that a message takes besides its content, about: what a commit has to write bounds how many share it."""


class Gathering(Protocol):
    """A database whose units can be gathered."""

    def gather(
        self,
        work: Callable[[Tx, Sequence[ToFile]], Awaitable[Filing]],
        told: Callable[[Filing], None],
    ) -> Callable[[ToFile, int], Awaitable[Any]]:
        """What takes an item and its octets, and returns once ``work``, given it and all others that waited at the same
        time, is durable. ``told`` hears of each work what it gave, after that."""


class Host(Protocol):
    """What is needed of the service that files what goes by the queue: the same mail, the same metrics and log."""

    def compute(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do ``work`` where it holds up nobody."""

    def count(self, what: str, many: int) -> None:
        """For the metrics: filed, known, dropped."""

    def trouble(self, what: str, error: BaseException) -> None:
        """For the log."""


class FilingIntake:
    """An ``Intake`` that files. ``queue`` takes what cannot be filed at once, and says whether there is room."""

    def __init__(self, *, queue: Intake, database: Gathering, bus: Bus, ids: Ids, host: Host) -> None:
        self._queue = queue
        self._bus = bus
        self._ids = ids
        self._host = host
        self._packer = Packer()
        self._file = database.gather(self._work, self._filed)

    def admit(self, size: int) -> Awaitable[None]:
        """Whether content of ``size`` octets (0: unknown) would find room. Raises QueueFull, QueueUnavailable."""
        return self._queue.admit(size)

    async def put(self, spooled: Spooled) -> None:
        """Return when it is filed, or when the queue has it. Raises QueueFull, QueueUnavailable."""
        leads = len(set(spooled.mailboxes))
        if spooled.content.size <= LARGEST and leads <= MOST_MAILBOXES:
            try:
                item = await self._ready(spooled)
                packed = item.packed
                octets = len(packed.data) + sum([len(piece.data) for piece in packed.pieces])
                await self._file(item, octets + leads * MESSAGE)
            except Exception as error:  # whatever it is: 250 depends on the queue then
                self._host.trouble(f"message {spooled.id} goes by the queue", error)
            else:
                return
        await self._queue.put(spooled)

    async def _ready(self, spooled: Spooled) -> ToFile:
        content = b"".join([piece async for piece in spooled.content.chunks()])
        if len(content) <= INLINE:
            return to_file(self._packer, spooled, parse(content), content)
        return await self._host.compute(lambda: to_file(Packer(), spooled, parse(content), content))

    async def _work(self, tx: Tx, items: Sequence[ToFile]) -> Filing:
        return await file(tx, self._ids, items, follow=True)

    def _filed(self, filing: Filing) -> None:
        announce_filed(self._bus, filing)
        for what, many in filing.counts():
            self._host.count(what, many)
